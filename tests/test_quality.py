"""Promise: what rounding costs, on text that the bundled model never saw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast import LLM
from gpt2fast.checkpoint import open_checkpoint

CONTEXT = 512
WINDOWS = 40  # 20,480 tokens
OUTLIER = 50.0


@pytest.fixture(scope="module")
def windows() -> list[list[int]]:
    """Held-out text of the corpus that the bundled model was trained on, in whole contexts."""
    from gpt2fast.train.corpus import load_corpus

    with open_checkpoint("demo") as checkpoint:
        tokenizer = checkpoint.load_tokenizer()
    assert tokenizer is not None
    found: list[list[int]] = []
    for document in load_corpus([], "python", 0.05).held_out:
        ids = tokenizer.encode(document.text[: 16 * CONTEXT]).ids
        found += [ids[:CONTEXT]] if len(ids) >= CONTEXT else []
    # From one document each, and those taken evenly from all there are.
    return [found[i * len(found) // WINDOWS] for i in range(WINDOWS)]


def nats(model: Any, windows: list[list[int]], **options: Any) -> float:
    """Mean cross entropy a token, natural logarithm."""
    total = count = 0.0
    with LLM(model, **options) as llm:
        for window in windows:
            logits = llm.logits(window)[:-1].astype(np.float64)
            top = logits.max(axis=1)
            normalizer = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
            total += float((normalizer - logits[np.arange(len(logits)), window[1:]]).sum())
            count += len(logits)
    return total / count


@pytest.fixture(scope="module")
def exact(windows: list[list[int]]) -> float:
    return nats("demo", windows)


def loss(model: Any, windows: list[list[int]], exact: float, **options: Any) -> float:
    """Percent of perplexity more than in float32."""
    percent = 100 * float(np.expm1(nats(model, windows, **options) - exact))
    print(f"{Path(str(model)).name} {options}: {percent:+.4f} % perplexity")
    return percent


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"dtype": "bfloat16", "kv_cache_dtype": "float32"}, 0.02),
        ({"dtype": "bfloat16"}, 0.02),
        ({"kv_cache_dtype": "bfloat16"}, 0.02),
        ({"kv_cache_dtype": "int8"}, 0.05),
        ({"quantization": "int8", "kv_cache_dtype": "float32"}, 0.1),
        ({"quantization": "int8"}, 0.1),
        ({"quantization": "int8", "kv_cache_dtype": "int8"}, 0.15),
        # Rounded to nearest, reported and not promised; 1.2 and 0.8, 3.3 and 2.4 were measured.
        ({"quantization": "int4"}, 2.0),
        ({"quantization": "int4-g32"}, 1.5),
        ({"quantization": "int3"}, 5.0),
        ({"quantization": "int3-g32"}, 4.0),
    ],
    ids=str,
)
def test_perplexity(
    windows: list[list[int]], exact: float, options: dict[str, Any], most: float
) -> None:
    assert loss("demo", windows, exact, **options) <= most


def with_outliers(out: Path, channels: int) -> Path:
    """The bundled model with ``channels`` random channels of every LayerNorm but the last 50 times
    as large, and the rows of the matrix that follows as much smaller: the same function."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(channels)
    with open_checkpoint("demo") as source:
        for file in source.path.iterdir():
            if file.suffix in (".json", ".txt"):
                shutil.copyfile(file, out / file.name)
        tensors = {name: np.array(source.tensor(name).float32()) for name in source.names}
        config = source.config
    for layer in range(config.n_layer):
        for norm, matrix in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
            chosen = rng.choice(config.n_embd, channels, replace=False)
            for part in ("weight", "bias"):
                tensors[f"h.{layer}.{norm}.{part}"][chosen] *= OUTLIER
            tensors[f"h.{layer}.{matrix}.weight"][chosen] /= OUTLIER
    save_file(tensors, out / "model.safetensors")
    fields = json.loads((out / "config.json").read_text())
    assert fields["tie_word_embeddings"]
    return out


@pytest.mark.parametrize("channels", [4, 8])
def test_outliers(windows: list[list[int]], exact: float, tmp_path: Path, channels: int) -> None:
    model = with_outliers(tmp_path, channels)
    assert abs(loss(model, windows, exact)) <= 1e-3, "it is the same function"
    assert loss(model, windows, exact, quantization="int8") <= 0.3


@pytest.mark.parametrize("channels", [0, 8])
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_an_export_costs_no_more(
    windows: list[list[int]], exact: float, tmp_path: Path, scheme: str, channels: int
) -> None:
    pytest.importorskip("onnx_ir")
    pytest.importorskip("onnxruntime")
    from gpt2fast.export import ExportOptions, export

    (tmp_path / "model").mkdir()
    model = with_outliers(tmp_path / "model", channels) if channels else "demo"
    native = loss(model, windows, exact, quantization=scheme)
    export(model, tmp_path / "out", ExportOptions(scheme))
    assert loss(tmp_path / "out", windows, exact) <= native + 0.2
