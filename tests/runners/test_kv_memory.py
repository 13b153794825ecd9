"""How large a cache is: by the bytes that its format takes, as C++ lays it out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.errors import OptionError
from gpt2fast.runners import FormatOptions, kv_memory, resolve_format
from gpt2fast.runners.cpu import CpuRunner
from gpt2fast.runners.kv_memory import bytes_per_token, num_blocks
from support.model_grid import BASE, PRUNED

MakeCheckpoint = Callable[..., tuple[Path, Any]]

HEADS = [(48, 3), (60, 3), (35, 5), (5, 5), (33, 1)]  # heads of 16, 20, 7, 1, 33
MODELS = [{**BASE, "n_embd": width, "n_head": heads, "n_inner": 8} for width, heads in HEADS]


@pytest.mark.parametrize("kv_cache_dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("model", [*MODELS, PRUNED], ids=str)
def test_bytes_of_a_token(
    make_checkpoint: MakeCheckpoint, model: dict[str, Any], kv_cache_dtype: str
) -> None:
    path, _ = make_checkpoint(**model)
    with open_checkpoint(path) as checkpoint:
        form = resolve_format(checkpoint, FormatOptions(kv_cache_dtype=kv_cache_dtype))
        runner = CpuRunner(checkpoint, form, num_blocks=7)
    per_token = bytes_per_token(runner.config, kv_cache_dtype)
    assert 7 * 16 * per_token == runner._decoder.cache_bytes


def test_a_smaller_format_gives_more_tokens(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = make_checkpoint(**BASE)
    with open_checkpoint(path) as checkpoint:
        config = checkpoint.config
    memory = 4 * 1000 * bytes_per_token(config, "float32")  # a quarter holds 1,000 tokens
    monkeypatch.setattr(kv_memory, "physical_memory", lambda: memory)
    blocks = {
        name: num_blocks(config, 16, None, kv_cache_dtype=name)
        for name in ("float32", "bfloat16", "int8")
    }
    assert blocks["float32"] == -(-1000 // 16)
    assert blocks["bfloat16"] == -(-2000 // 16)
    assert blocks["int8"] == -(-3200 // 16)  # 40 bytes a head and token, 128 in float32
    assert num_blocks(config, 16, 5000, kv_cache_dtype="bfloat16") == -(-5000 // 16)
    with pytest.raises(OptionError, match=r"give at most 4000, or kv_cache_dtype='int8'"):
        num_blocks(config, 16, 5000)
    with pytest.raises(OptionError, match="quantization='int8', 'int4' or 'int3'"):
        num_blocks(config, 16, None, weight_bytes=memory)
