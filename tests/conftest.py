"""Fixtures shared by the tests of all floors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.pruned import prune

# The models here are tiny: torch's threads would spend their time waiting for each other, a
# hundredfold when the machine is busy. Set before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def gpt2_tokenizer_files() -> Path:
    """Directory with the real ``vocab.json`` and ``merges.txt`` of GPT-2."""
    path = REPOSITORY.parent / "shared" / "data" / "gpt2-tokenizer"
    if not (path / "vocab.json").is_file():
        pytest.skip("GPT-2's vocab.json and merges.txt are not beside the checkout")
    return path


@pytest.fixture
def short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compression times its candidates for an instant, where a test is about something else."""
    measure = pytest.importorskip("gpt2fast.compress.search.measure")
    monkeypatch.setattr(measure, "LEAST_SECONDS", 0.01)


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Any]]:
    """Factory: ``make_checkpoint(seed=0, std=0.12, **GPT2Config fields) -> (path, hf_model)``.

    The model is transformers' ``GPT2LMHeadModel`` in eval mode, float32, eager attention (the only
    one that knows every flag), saved as safetensors. Weights, biases and LayerNorm parameters are
    all random and larger than the defaults, so that logits spread and no term vanishes. With
    ``layers``, pairs of heads and MLP neurons, the directory holds a physically smaller model and
    the transformers model zeros in place of what is gone. Equal arguments give the same directory
    and model: treat both as read-only.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    made: dict[str, tuple[Path, Any]] = {}

    def make(
        seed: int = 0, std: float = 0.12, layers: Any = None, **overrides: Any
    ) -> tuple[Path, Any]:
        activation = overrides.get("activation_function", "gelu_new")
        if activation not in transformers.activations.ACT2FN:
            pytest.skip(f"transformers {transformers.__version__} has no activation {activation}")
        key = json.dumps([seed, std, layers, overrides], sort_keys=True)
        if key not in made:
            config = transformers.GPT2Config(attn_implementation="eager", **overrides)
            model = transformers.GPT2LMHeadModel(config).eval()
            _randomize(torch, model, seed, std)
            path = tmp_path_factory.mktemp("checkpoint")
            if layers is None:
                model.save_pretrained(path)
            else:
                prune(model, layers, path, seed)
            made[key] = (path, model)
        return made[key]

    return make


def _randomize(torch: Any, model: Any, seed: int, std: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * std
            is_gain = ".ln_" in f".{name}" and name.endswith("weight")
            parameter.copy_(noise + 1.0 if is_gain else noise)
