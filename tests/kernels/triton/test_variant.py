"""Every kernel as it ships, compiled ahead of time: no spills, and within the chip's memory."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")
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
from gpt2fast.kernels.triton import variant as variant_module  # noqa: E402
from gpt2fast.kernels.triton.product import Sizes  # noqa: E402
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


def test_registers_are_bounded_where_the_compiler_aims_too_low() -> None:
    """Each spilled 8 or 16 bytes to reach a number of registers that nothing asked for."""
    for splits, tile in ((1, 32), (4, 64)):
        decode = attention_decode.plan(12, 64, 16, splits, torch.float32, tile)
        assert compile_for(decode, 100).local_bytes == 0
        assert compile_for(decode, 100).registers <= decode.most_registers[100]
    widest = linear.plan(Sizes(8192, 2048, 16), "linear", True, torch.float16)
    assert compile_for(widest, 80).local_bytes == 0


def test_nothing_bounds_registers_where_speed_was_measured() -> None:
    for model, dtype in itertools.product(MODELS, ("float16", "bfloat16", "float32")):
        assert not any("maxnreg" in variant.options_for(90) for variant in shipped(model, dtype))


@pytest.mark.parametrize(
    ("capability", "options"),
    [
        (0, {}),
        (80, {"maxnreg": 40}),
        (90, {"launch_pdl": True}),
        (100, {"launch_pdl": True, "maxnreg": 56}),
    ],
)
def test_options_at_launch_are_those_of_the_device(
    capability: int, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, int] = {}
    kernel = {(1,): lambda *_, **keywords: given.update(keywords)}
    most = {80: 40, 100: 56}
    bounded = Variant("x", kernel, {}, {"K": 8}, 2, 3, most)
    monkeypatch.setattr(variant_module, "capability_of", lambda _: capability)
    bounded.launch((1,), torch.device("cpu"))
    dependent = capability >= 90
    assert given == {"K": 8, "DEPENDENT": dependent, "num_warps": 2, "num_stages": 3, **options}


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
