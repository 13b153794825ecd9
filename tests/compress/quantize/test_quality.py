"""Promise: what quantizing the bundled model costs on text that nothing has seen."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.compress.calibration.calibration import Calibration, draw
from gpt2fast.compress.quantize import QuantizeOptions, quantize
from gpt2fast.compress.quantize.activations import rounded_activations
from gpt2fast.compress.state.model import Model, open_model
from gpt2fast.evaluate import plain_windows, token_nats
from gpt2fast.evaluate.windows import Window
from gpt2fast.quantization import MatrixFormat
from gpt2fast.train.corpus import load_corpus

pytestmark = pytest.mark.slow
LENGTH, HELD_OUT, CALIBRATION = 256, 24, 12
Case = tuple[Model, list[Window], Calibration, float]


@pytest.fixture(scope="module")
def case() -> Case:
    """The model, held-out windows of the corpus it was trained on, windows of the rest of it, and
    nats a token in float32."""
    corpus = load_corpus([], "python", 0.05)
    with open_checkpoint("demo") as checkpoint:
        tokenizer = checkpoint.load_tokenizer()
    texts = [
        draw(documents, tokenizer, count, LENGTH, 0, 0, ["python"])
        for documents, count in (
            (corpus.held_out, HELD_OUT),
            (corpus.train[::12], CALIBRATION),
        )
    ]
    model, windows = open_model("demo"), plain_windows(texts[0].windows)
    return model, windows, texts[1], nats(model, windows)


def nats(model: Model, windows: list[Window]) -> float:
    def scorer(tokens: object) -> np.ndarray:
        logits: np.ndarray = model.network(torch.tensor([tokens]))[0].numpy()
        return logits

    with torch.no_grad(), rounded_activations(model):
        return float(token_nats(scorer, windows).mean())


def loss(case: Case, method: str, name: str) -> float:
    """Percent of perplexity more than in float32, under an int8 head."""
    original, windows, text, exact = case
    model = copy.deepcopy(original)
    quantize(model, text, QuantizeOptions(method, MatrixFormat(name, 64)))
    percent = 100 * float(np.expm1(nats(model, windows) - exact))
    print(f"{method} {name}: {percent:+.3f} %")
    return percent


def test_int8_everything(case: Case) -> None:
    assert loss(case, "clip", "int8") <= 0.1


def test_int4_blocks_under_an_int8_head(case: Case) -> None:
    assert loss(case, "gptq", "int4") <= 2.0


def test_int3_of_gptq_loses_little_of_what_rounding_loses(case: Case) -> None:
    nearest, ours = loss(case, "rtn", "int3"), loss(case, "gptq", "int3")
    assert ours <= 0.6 * nearest
