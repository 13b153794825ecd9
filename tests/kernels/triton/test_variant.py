"""Every kernel as it ships, compiled ahead of time: no spills, and within the chip's memory."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"
)

from gpt2fast.kernels.triton import (  # noqa: E402
    attention_decode,
    attention_prefill,
    cache_append,
    dequantize,
    embedding,
    head,
    layer_norm,
    linear,
    sample,
)
from gpt2fast.kernels.triton.variant import (  # noqa: E402
    SHARED_LIMITS,
    Variant,
    compile_for,
)

# Width, heads and head size of gpt2, of gpt2-xl (no power of two), and of Cerebras-GPT 1.3B.
MODELS = {"gpt2": (768, 12, 64), "gpt2-xl": (1600, 25, 64), "cerebras-1.3b": (2048, 16, 128)}
# What `make test` compiles; `make test-slow` compiles all.
SOON = {
    ("gpt2-xl", "float16", 80),
    ("gpt2-xl", "float16", 90),
    ("gpt2-xl", "float16", 100),
    ("cerebras-1.3b", "float32", 90),
}
EVERY = [
    pytest.param(*case, marks=() if case in SOON else pytest.mark.slow)
    for case in itertools.product(MODELS, ("float16", "bfloat16", "float32"), SHARED_LIMITS)
]


def shipped(model: str, dtype: str) -> Iterator[Variant]:
    width, heads, head_size = MODELS[model]
    yield from layer_norm.variants(width, dtype)
    yield from cache_append.variants(heads, head_size, dtype)
    yield from attention_prefill.variants(heads, head_size, dtype)
    yield from attention_decode.variants(heads, head_size, dtype)
    yield from linear.variants(width, 4 * width, dtype)
    yield from dequantize.variants(width, dtype)
    yield from embedding.variants(width, dtype)
    yield from head.variants(width, dtype)
    yield from sample.variants()


@pytest.mark.parametrize(("model", "dtype", "capability"), EVERY)
def test_resources(model: str, dtype: str, capability: int) -> None:
    wrong = []
    for variant in shipped(model, dtype):
        if capability < variant.least_capability:
            continue
        used = compile_for(variant, capability)
        if used.local_bytes or used.shared_bytes > SHARED_LIMITS[capability]:
            wrong.append(f"{variant.name}: {used}")
        assert 0 < used.registers <= 255
    assert not wrong, "\n".join(wrong)


def test_spills_are_seen() -> None:
    """A row of 16,384 values in one warp is 512 a thread, twice what there are registers for."""
    few = next(layer_norm.variants(16384, "float32"))
    assert compile_for(few, 90).local_bytes == 0
    assert compile_for(dataclasses.replace(few, num_warps=1), 90).local_bytes > 0


def test_arguments_that_are_left_out_are_named() -> None:
    variant = next(layer_norm.variants(768, "float16"))
    wrong = Variant("x", variant.kernel, {"x_ptr": "*fp16"}, variant.constants, 4)
    with pytest.raises(ValueError, match="x: the kernel takes"):
        compile_for(wrong, 90)
