"""Rounding to nearest is what the loader does with a float checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt2fast import LLM
from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.compress.quantize import QuantizeOptions, quantize
from gpt2fast.compress.state.artifact import save_model
from gpt2fast.compress.state.model import Model
from gpt2fast.quantization import Quantization

TOKENS = list(range(40, 140))


@pytest.mark.parametrize("name", ["int8", "int4", "int4-g32"])
def test_the_artifact_has_the_bits_of_the_loader(demo: Model, tmp_path: Path, name: str) -> None:
    scheme = Quantization.parse(name)
    quantize(demo, None, QuantizeOptions("rtn", scheme.blocks, scheme.head, "rtn"))
    save_model(demo, tmp_path / "ours")
    with LLM("demo", quantization=name) as llm:
        llm.save_quantized(tmp_path / "loader")
        wanted = llm.logits(TOKENS)
    with open_checkpoint(tmp_path / "ours") as a, open_checkpoint(tmp_path / "loader") as b:
        assert a.quantization == b.quantization == scheme
        for tensor in a.names:
            assert np.array_equal(a.tensor(tensor).data, b.tensor(tensor).data), tensor
    with LLM(tmp_path / "ours") as llm:
        np.testing.assert_array_equal(llm.logits(TOKENS), wanted)
