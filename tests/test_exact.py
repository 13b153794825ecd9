"""Promise: greedy tokens and logits equal transformers' in fp32, for every flag and size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast import LLM, SamplingParams
from support.model_grid import FLAG_GRID, PRUNED_GRID, WIDE_GRID

MakeCheckpoint = Callable[..., tuple[Path, Any]]
NEW_TOKENS = 64


def greedy_with_transformers(model: Any, prompt: list[int]) -> list[int]:
    torch = pytest.importorskip("torch")
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=NEW_TOKENS,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=0,
    )
    return [int(token) for token in out[0, len(prompt) :]]


def logits_with_transformers(model: Any, tokens: list[int]) -> np.ndarray:
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return np.asarray(model(torch.tensor([tokens])).logits[0].numpy())


def check(path: Path, model: Any, device: str, atol: float, prompt_length: int = 24) -> None:
    with LLM(path, device=device) as llm:
        rng = np.random.default_rng(7)
        prompt = [int(t) for t in rng.integers(0, llm.config.vocab_size, prompt_length)]
        params = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True)
        tokens = list(llm.generate([prompt], params)[0].outputs[0].token_ids)
        assert tokens == greedy_with_transformers(model, prompt)
        want = logits_with_transformers(model, prompt + tokens)
        got = llm.logits(prompt + tokens)
    assert np.ptp(want) > 1.0, "logits that do not spread would prove little"
    np.testing.assert_allclose(got, want, atol=atol, rtol=0)


@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize("overrides", FLAG_GRID + PRUNED_GRID)
def test_flag_grid(make_checkpoint: MakeCheckpoint, overrides: dict[str, Any], device: str) -> None:
    path, model = make_checkpoint(**overrides)
    check(path, model, device, atol=1e-4)


@pytest.mark.parametrize("overrides", PRUNED_GRID)
def test_transformers_does_not_misread_layers_of_different_shapes(
    make_checkpoint: MakeCheckpoint, overrides: dict[str, Any]
) -> None:
    """What the documentation says of it: a refusal, never another model."""
    transformers = pytest.importorskip("transformers")
    path, _ = make_checkpoint(**overrides)
    with pytest.raises(RuntimeError, match=r"per-layer attribute|size mismatch|mismatched"):
        transformers.AutoModelForCausalLM.from_pretrained(path)


@pytest.mark.parametrize("overrides", WIDE_GRID)
def test_xl_width_in_one_layer(make_checkpoint: MakeCheckpoint, overrides: dict[str, Any]) -> None:
    path, model = make_checkpoint(std=0.05, **overrides)
    check(path, model, "cpu", atol=1e-4)


SIZES = {
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
}


@pytest.mark.parametrize(
    ("size", "atol"),
    [
        ("gpt2", 1e-4),
        pytest.param("gpt2-medium", 1e-4, marks=pytest.mark.slow),
        pytest.param("gpt2-xl", 5e-4, marks=pytest.mark.slow),
    ],
)
def test_true_sizes(tmp_path: Path, size: str, atol: float) -> None:
    """Weights of twice the usual scale, made here and thrown away: they are gigabytes."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.GPT2Config(
        **SIZES[size], initializer_range=0.04, attn_implementation="eager"
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    check(tmp_path, model, "cpu", atol, prompt_length=100)
