"""Small trained and random models, and calibration text, for the tests of compression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.state.model import Model, frozen, open_model
from gpt2fast.config import ModelConfig
from gpt2fast.model.gpt2 import GPT2


@pytest.fixture
def demo() -> Model:
    """The bundled model, which is trained; a new copy for each test."""
    return open_model("demo")


@pytest.fixture
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """Factory: ``random_model(seed=0, **ModelConfig fields) -> Model``, a tiny one whose weights,
    biases and LayerNorms are all random."""

    def make(seed: int = 0, **overrides: Any) -> Model:
        fields: dict[str, Any] = {
            "vocab_size": 101,
            "n_positions": 48,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_inner": 96,
        }
        generator = torch.Generator().manual_seed(seed)
        network = GPT2(ModelConfig(**{**fields, **overrides}))
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator) * 0.2
                gain = "ln_" in name and name.endswith("weight")
                parameter.copy_(1.0 + noise if gain else noise)
        return Model(frozen(network), tmp_path_factory.mktemp("source"))

    return make


@pytest.fixture
def random_calibration() -> Callable[..., Calibration]:
    """Factory: ``random_calibration(vocab_size, windows=4, length=24, seed=0)``."""

    def make(vocab_size: int, windows: int = 4, length: int = 24, seed: int = 0) -> Calibration:
        rng = np.random.default_rng(seed)
        return Calibration(rng.integers(0, vocab_size, (windows, length)), "random")

    return make
