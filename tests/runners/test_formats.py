"""Every format of weights and cache in the CPU runner: invariant bit for bit, and as close to what
the stored numbers stand for as its arithmetic allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpt2fast import _C
from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.checkpoint.save import save_quantized
from gpt2fast.quantization import FLOAT_FORMATS, MatrixFormat, Quantization
from gpt2fast.quantization.panel_layout import bytes_by_format, bytes_per_step, matrix_layouts
from gpt2fast.runners import FormatOptions, resolve_format
from gpt2fast.runners.cpu import CpuRunner
from support.bits import check_bits, check_forks, tokens_for
from support.model_grid import BASE, FLAG_GRID, PRUNED_GRID
from support.paged import PagedSequences

MakeCheckpoint = Callable[..., tuple[Path, Any]]

WEIGHTS = (
    "float32", "bfloat16", "int8", "int8-g32", "int4", "int4-g32", "int4-g128", "int3", "int3-g32",
    "mixed",
)  # fmt: skip
INTEGERS = tuple(name for name in WEIGHTS if name not in FLOAT_FORMATS)
MIXED = Quantization(
    MatrixFormat("int4", 64),
    MatrixFormat("int8", 32),
    (
        ("wte.weight", MatrixFormat("bfloat16")),
        ("h.0.attn.c_attn.weight", MatrixFormat("float32")),
        ("h.0.attn.c_proj.weight", MatrixFormat("int3", 32)),
        ("h.0.mlp.c_fc.weight", MatrixFormat("int8", 128)),
    ),
)
CACHES = ("float32", "bfloat16", "int8")
MODELS: list[dict[str, Any]] = [
    BASE,
    # 150 inputs: groups that are not full, and inputs that fill no unit of a format.
    {**BASE, "n_embd": 60, "n_head": 3, "activation_function": "gelu", "n_inner": 77},
    {**BASE, "n_embd": 150, "n_head": 5, "tie_word_embeddings": False, "n_layer": 1},
    {**BASE, "layers": ((1, 7), (2, 100))},
]


def scheme_of(weights: str) -> Quantization:
    return MIXED if weights == "mixed" else Quantization.parse(weights)


def make_runner(path: Path, weights: str, cache: str = "float32", **options: Any) -> CpuRunner:
    with open_checkpoint(path) as checkpoint:
        formats = (
            FormatOptions("auto", scheme_of(weights), cache)
            if weights in INTEGERS
            else FormatOptions(weights, None, cache)
        )
        return CpuRunner(
            checkpoint,
            resolve_format(checkpoint, formats, "cpu"),
            **{"num_blocks": 32, "num_threads": 2, **options},
        )


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("weights", WEIGHTS)
@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_bits_do_not_depend_on_batch_chunks_prefix_or_threads(
    make_checkpoint: MakeCheckpoint,
    monkeypatch: pytest.MonkeyPatch,
    weights: str,
    cache: str,
    isa: str,
    data: st.DataObject,
) -> None:
    monkeypatch.setenv("GPT2FAST_FORCE_ISA", isa)
    path, _ = make_checkpoint(**data.draw(st.sampled_from(MODELS), "model"))
    check_bits(lambda threads: make_runner(path, weights, cache, num_threads=threads), data)


@pytest.mark.parametrize("cache", CACHES)
def test_forks_write_to_blocks_of_their_own(make_checkpoint: MakeCheckpoint, cache: str) -> None:
    path, _ = make_checkpoint(**BASE)
    check_forks(make_runner(path, "int8", cache))


def save(runner: CpuRunner, source: Path, out: Path) -> Path:
    assert runner.quantization is not None
    save_quantized(out, source, runner.config, runner.quantization, runner.packed_tensors())
    return out


def rounded_rows(x: Any, group: int) -> Any:
    """Rows (..., K) as 8-bit integers with a scale for each ``group`` inputs, in floats again."""
    import torch

    parts = []
    for part in x.split(group, dim=-1):
        most = part.abs().amax(-1, keepdim=True)
        steps = torch.where(most > 0, 127 / most, 0)
        parts.append(torch.round(part * steps) * (most / 127))
    return torch.cat(parts, dim=-1)


def attention_over_int8(q: Any, k: Any, v: Any, scale: float, upcast: bool = False) -> Any:
    """``reference.attention`` over a cache of 8 bits (rounded already): a token's scale goes into
    its weight, and the weights of each 64 tokens become integers of one scale."""
    import torch

    assert not upcast
    new, total = q.shape[-2], k.shape[-2]
    hidden = torch.ones(new, total, dtype=torch.bool).triu(total - new + 1)
    weights = (q @ k.mT * scale).masked_fill(hidden, -torch.inf).softmax(-1)
    scales = v.abs().amax(-1, keepdim=True) / 127  # (B, H, S, 1): the largest is 127 steps
    integers = torch.where(scales > 0, v / scales, 0).round()
    return rounded_rows(weights * scales.mT, 64) @ integers


def reference_logits(
    path: Path,
    tokens: NDArray[np.int32],
    weights: str,
    cache: str = "float32",
    *,
    rounding: bool = True,
) -> NDArray[np.float32]:
    """Logits in plain torch, float32, with the weights that the runner's numbers stand for.

    ``rounding``: also of what goes into each product with an integer matrix, and of what the cache
    holds.
    """
    torch = pytest.importorskip("torch")
    from gpt2fast.kernels import reference
    from gpt2fast.runners.torch import TorchRunner

    class Rounding(TorchRunner):
        def _rounded(self, x: Any, name: str) -> Any:
            form = self.formats.get(f"{name}.weight")
            integers = rounding and form is not None and form.group_size
            return rounded_rows(x, form.group_size) if integers else x

        def _linear(self, x: Any, name: str) -> Any:
            out = super()._linear(self._rounded(x, name), name)
            return self._cached(out) if rounding and name.endswith("c_attn") else out

        def _norm(self, x: Any, name: str) -> Any:
            out = super()._norm(x, name)
            head = "wte" if self.config.tie_word_embeddings else "lm_head"
            return self._rounded(out, head) if name == "ln_f" else out

        def _cached(self, qkv: Any) -> Any:
            if cache == "float32":
                return qkv
            heads = qkv.view(len(qkv), 3, -1, self.config.head_size)
            if cache == "bfloat16":
                heads[:, 1:] = heads[:, 1:].bfloat16().float()
            else:  # the query is rounded too, for 8-bit products
                heads[:] = rounded_rows(heads, self.config.head_size)
            return heads.flatten(1)

    with open_checkpoint(path) as checkpoint:
        runner = Rounding(checkpoint, num_blocks=32)
        scheme = checkpoint.quantization
    layouts = matrix_layouts(runner.config, "float32", scheme)
    runner.formats = {name: layout.format for name, layout in layouts.items()}  # type: ignore[attr-defined]
    if weights == "bfloat16":
        for name in layouts:
            runner._weights[name] = runner._weights[name].bfloat16().float()
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        if rounding and cache == "int8":
            patch.setattr(reference, "attention", attention_over_int8)
        return PagedSequences(runner).logits(tokens, [len(tokens)])


@pytest.mark.parametrize("overrides", FLAG_GRID + PRUNED_GRID)
def test_bfloat16_is_float32_arithmetic_on_rounded_weights(
    make_checkpoint: MakeCheckpoint, overrides: dict[str, Any]
) -> None:
    path, _ = make_checkpoint(**overrides)
    runner = make_runner(path, "bfloat16")
    tokens = tokens_for(runner.config, runner.config.n_positions)
    got = PagedSequences(runner).logits(tokens, [len(tokens)])
    want = reference_logits(path, tokens, "bfloat16")
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=0)


def check_integers(path: Path, out: Path, weights: str, cache: str) -> None:
    runner = make_runner(path, weights, cache)
    saved = save(runner, path, out)
    tokens = tokens_for(runner.config, runner.config.n_positions)
    got = PagedSequences(runner).logits(tokens, [len(tokens)])
    same = reference_logits(saved, tokens, weights, cache)
    exact = reference_logits(saved, tokens, weights, rounding=False)
    error = np.abs(same - exact).max()
    assert np.ptp(exact) > 1.0, "logits that do not spread would prove little"
    assert 1e-3 < error < 0.05 * np.ptp(exact), "rounding should show, and not spoil the logits"
    # The same arithmetic in another order: equal, but where a value lies so near the middle
    # between two integers that it falls to the other one. Later tokens see that through attention.
    each = np.abs(got - same).max(axis=1)
    # An 8-bit cache also rounds every weight of the softmax: fewer rows escape.
    assert np.quantile(each, 0.05 if cache == "int8" else 0.25) < 1e-4
    assert each.max() <= 2 * error


@pytest.mark.parametrize("overrides", FLAG_GRID + PRUNED_GRID)
def test_int8_in_every_flag(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, overrides: dict[str, Any]
) -> None:
    path, _ = make_checkpoint(**overrides)
    check_integers(path, tmp_path / "out", "int8", "float32")


@pytest.mark.parametrize("model", MODELS, ids=["base", "odd", "untied", "pruned"])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("weights", INTEGERS)
def test_integers(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, weights: str, cache: str, model: dict[str, Any]
) -> None:
    path, _ = make_checkpoint(**model)
    check_integers(path, tmp_path / "out", weights, cache)


def test_embeddings_and_sizes_are_what_the_layouts_say(make_checkpoint: MakeCheckpoint) -> None:
    for model in (*MODELS, {**BASE, "activation_function": "xielu"}):
        path, _ = make_checkpoint(**model)
        for weights in WEIGHTS:
            runner = make_runner(path, weights)
            by_format = bytes_by_format(runner.layouts, runner.config)
            assert sum(by_format.values()) == runner.weight_bytes
            assert bytes_per_step(runner.layouts, runner.config) == runner.bytes_per_step


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_instruction_sets_agree(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch, weights: str, cache: str
) -> None:
    path, _ = make_checkpoint(**MODELS[1])
    logits = {}
    for isa in _C.available_isas():
        monkeypatch.setenv("GPT2FAST_FORCE_ISA", isa)
        runner = make_runner(path, weights, cache)
        tokens = tokens_for(runner.config, runner.config.n_positions)
        logits[isa] = PagedSequences(runner).logits(tokens, [len(tokens)])
    plain = logits["generic"]
    for isa, got in logits.items():
        each = np.abs(got - plain).max(axis=1) / np.ptp(plain)
        if weights in ("float32", "bfloat16") and cache == "float32":
            assert each.max() <= 1e-4, isa
        else:  # but where a value near the middle between two numbers is rounded to the other
            assert np.quantile(each, 0.25) <= 1e-4, isa
            assert each.max() <= 0.02, isa
