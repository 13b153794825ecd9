"""Reading keys and values out of the CPU runner's cache, in each of its formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2fast import _C
from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.runners import FormatOptions, resolve_format
from gpt2fast.runners.cpu import CpuRunner
from support.bits import tokens_for
from support.paged import PagedSequences

MakeCheckpoint = Callable[..., tuple[Path, Any]]
# Heads of 20: components of a head that fill no vector, nor a group of four.
MODEL = {"vocab_size": 61, "n_positions": 96, "n_embd": 60, "n_layer": 2, "n_head": 3}
LENGTH = 37  # three blocks, the last one not full


def read(path: Path, cache: str) -> tuple[CpuRunner, NDArray[np.int32]]:
    """A runner with a text behind another one, and the text's blocks."""
    with open_checkpoint(path) as checkpoint:
        form = resolve_format(checkpoint, FormatOptions(kv_cache_dtype=cache))
        runner = CpuRunner(checkpoint, form, num_blocks=16, num_threads=2)
    pages = PagedSequences(runner)
    tokens = tokens_for(runner.config, LENGTH)
    texts = [pages.create(tokens)[0] for _ in range(2)]
    pages.step([(texts[0], tokens[:20]), (texts[1], tokens[:5])])
    pages.step([(texts[1], tokens[5:])])
    return runner, pages.pool.block_table(texts[1])


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("cache", ["bfloat16", "int8"])
def test_values_are_those_that_were_stored_rounded(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch, cache: str, isa: str
) -> None:
    monkeypatch.setenv("GPT2FAST_FORCE_ISA", isa)
    path, _ = make_checkpoint(**MODEL)
    runs = [read(path, name) for name in ("float32", cache)]
    # Of the first layer alone: what the second one stores depends on what the first one read.
    want, found = (runner.read_cache(0, blocks, LENGTH) for runner, blocks in runs)
    for mine, other in zip(found, want, strict=True):
        assert mine.shape == other.shape == (3, LENGTH, 20)
        size = np.abs(other)
        assert size.max() > 0.1
        step = size.max(-1, keepdims=True) / 127 if cache == "int8" else size / 128
        assert (np.abs(mine - other) <= step * 0.51 + 1e-6).all()
        assert (mine != other).any()


def test_what_is_not_there_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    runner, blocks = read(make_checkpoint(**MODEL)[0], "float32")
    for layer in (2, -1):
        with pytest.raises(ValueError, match=f"no layer {layer}"):
            runner.read_cache(layer, blocks, 5)
    for length in (17, -1):
        with pytest.raises(ValueError, match=f"1 blocks do not hold {length} tokens"):
            runner.read_cache(0, blocks[:1], length)
    with pytest.raises(ValueError, match="no cache block 16"):
        runner.read_cache(0, np.array([16], np.int32), 3)
    keys, values = runner.read_cache(0, blocks, 0)
    assert keys.shape == values.shape == (3, 0, 20)
