"""A decoder of the C++ core by itself, small and with layers of different shapes."""

from __future__ import annotations

from typing import Any

import numpy as np

SIZES: dict[str, Any] = {
    "vocab": 19, "positions": 40, "width": 12, "head_size": 5, "epsilon": 1e-5,
    "activation": "gelu_new", "tied_head": False, "layers": [(2, 9, 0.5), (1, 33, 0.3)],
    "num_blocks": 9, "max_batch_tokens": 24,
}  # fmt: skip


def tensor_shapes(sizes: dict[str, Any]) -> dict[str, list[int]]:
    """Of a decoder's tensors, vectors before the matrices that are balanced against them."""
    width, vocab = sizes["width"], sizes["vocab"]
    shapes = {"wpe.weight": [sizes["positions"], width]}
    matrices = {"wte.weight": [vocab, width], "lm_head.weight": [vocab, width]}
    for layer, (heads, inner, _) in enumerate(sizes["layers"]):
        attended = heads * sizes["head_size"]
        for name, shape in {
            "attn.c_attn": [width, 3 * attended],
            "attn.c_proj": [attended, width],
            "mlp.c_fc": [width, inner],
            "mlp.c_proj": [inner, width],
        }.items():
            matrices[f"h.{layer}.{name}.weight"] = shape
            shapes[f"h.{layer}.{name}.bias"] = shape[1:]
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h.{layer}.{norm}.{part}": [width] for part in ("weight", "bias")}
    return shapes | {"ln_f.weight": [width], "ln_f.bias": [width]} | matrices


def values_of(name: str, shape: list[int]) -> Any:
    rng = np.random.default_rng(list(name.encode()))
    return rng.normal(size=shape).astype(np.float32)


def make_decoder(module: Any, form: tuple[str, int] = ("float32", 0), **options: Any) -> Any:
    """A decoder of ``module``, a build of ``gpt2fast._C``, without weights."""
    shapes = tensor_shapes(SIZES)
    formats = {name: form for name in shapes if len(shapes[name]) == 2 and name != "wpe.weight"}
    given = {"kv_format": "float32", "num_threads": 1, "formats": formats, **SIZES, **options}
    return module.Decoder(**given)


def load(decoder: Any, name: str) -> None:
    shape = tensor_shapes(SIZES)[name]
    decoder.load(name, "F32", shape, values_of(name, shape).tobytes())


def load_all(decoder: Any) -> Any:
    for name in tensor_shapes(SIZES):
        load(decoder, name)
    return decoder


def prompt_logits(decoder: Any) -> Any:
    """Of a step that depends on no earlier one."""
    logits = np.full((2, SIZES["vocab"]), np.nan, np.float32)
    ints = [[3, 1, 4, 1, 5, 9, 2], [0, 4, 7], [0, 0], [[2], [5]], [3, 6]]
    decoder.step(*(np.array(values, np.int32) for values in ints), logits)
    return logits
