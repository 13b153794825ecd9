"""The CPU runner: exact against transformers, and the same bits however the work is cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2fast import _C
from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.errors import CheckpointError, OptionError, UnsupportedError
from gpt2fast.host import default_num_threads
from gpt2fast.runners import FormatOptions, resolve_format
from gpt2fast.runners.cpu import CpuRunner
from support.bits import check_bits, check_forks, tokens_for
from support.model_grid import BASE, FLAG_GRID, PRUNED, PRUNED_GRID
from support.paged import PagedSequences

MakeCheckpoint = Callable[..., tuple[Path, Any]]


def make_runner(path: Path, formats: FormatOptions | None = None, **options: Any) -> CpuRunner:
    with open_checkpoint(path) as checkpoint:
        form = resolve_format(checkpoint, formats, "cpu")
        return CpuRunner(checkpoint, form, **{"num_blocks": 32, "num_threads": 2, **options})


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("overrides", FLAG_GRID + PRUNED_GRID)
def test_logits_equal_transformers(
    make_checkpoint: MakeCheckpoint,
    monkeypatch: pytest.MonkeyPatch,
    overrides: dict[str, Any],
    isa: str,
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("GPT2FAST_FORCE_ISA", isa)
    path, model = make_checkpoint(**overrides)
    runner = make_runner(path)
    tokens = tokens_for(runner.config, runner.config.n_positions)
    with torch.no_grad():
        want = model(torch.from_numpy(tokens[None].astype(np.int64))).logits[0].numpy()
    got = PagedSequences(runner).logits(tokens, [len(tokens)])
    assert np.ptp(want) > 1.0, "logits that do not spread would prove little"
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=0)


_SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 70))


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(layers=st.lists(_SHAPES, min_size=1, max_size=4))
def test_layers_of_any_shapes_equal_zeros_in_transformers(
    make_checkpoint: MakeCheckpoint, layers: list[tuple[int, int]]
) -> None:
    torch = pytest.importorskip("torch")
    small = {**BASE, "n_embd": 24, "n_inner": 70, "n_layer": len(layers), "layers": layers}
    path, model = make_checkpoint(std=0.3, **small)
    runner = make_runner(path)
    assert [(shape.n_head, shape.n_inner) for shape in runner.config.layer_shapes] == layers
    tokens = tokens_for(runner.config, 33)
    with torch.no_grad():
        want = model(torch.from_numpy(tokens[None].astype(np.int64))).logits[0].numpy()
    got = PagedSequences(runner).logits(tokens, [20, 13])
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-4)


INVARIANCE_MODELS: list[dict[str, Any]] = [
    BASE,
    {**BASE, "n_embd": 60, "n_head": 3, "activation_function": "gelu", "n_inner": 77},
    {**BASE, "n_embd": 35, "n_head": 5, "tie_word_embeddings": False},
    PRUNED,
]


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("overrides", INVARIANCE_MODELS)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_bits_do_not_depend_on_batch_chunks_prefix_or_threads(
    make_checkpoint: MakeCheckpoint,
    monkeypatch: pytest.MonkeyPatch,
    overrides: dict[str, Any],
    isa: str,
    data: st.DataObject,
) -> None:
    monkeypatch.setenv("GPT2FAST_FORCE_ISA", isa)
    path, _ = make_checkpoint(**overrides)
    check_bits(lambda threads: make_runner(path, num_threads=threads), data)


@pytest.mark.parametrize("model", [BASE, PRUNED], ids=["base", "pruned"])
def test_forks_write_to_blocks_of_their_own(
    make_checkpoint: MakeCheckpoint, model: dict[str, Any]
) -> None:
    path, _ = make_checkpoint(**model)
    check_forks(make_runner(path))


def damage(path: Path, out: Path, value: float) -> Path:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    name = next(n for n in tensors if n.endswith("h.1.mlp.c_fc.weight"))
    tensors[name] = tensors[name].copy()
    tensors[name][3, 5] = value
    save_file(tensors, out / "model.safetensors")
    (out / "config.json").write_bytes((path / "config.json").read_bytes())
    return out


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, value: float
) -> None:
    path, _ = make_checkpoint(**BASE)
    with pytest.raises(CheckpointError, match=r"h\.1\.mlp\.c_fc\.weight.*NaN or infinite"):
        make_runner(damage(path, tmp_path, value))


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("quantization", [None, "int8", "int4", "int3"])
def test_an_overflow_reaches_the_sampler(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quantization: str | None,
    isa: str,
) -> None:
    """1e20 in the residual stream, whose square is none of float32: no logit is a number, and none
    of other rows suffers."""
    from safetensors.numpy import load_file, save_file

    monkeypatch.setenv("GPT2FAST_FORCE_ISA", isa)
    path, _ = make_checkpoint(**BASE)
    tensors = load_file(path / "model.safetensors")
    place = next(n for n in tensors if n.endswith("wpe.weight"))
    tensors[place] = tensors[place].copy()
    tensors[place][7, 0] = 1e20
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((path / "config.json").read_bytes())
    for cache in ("float32", "bfloat16", "int8"):
        runner = make_runner(tmp_path, FormatOptions("auto", quantization, cache))
        logits = PagedSequences(runner).logits(tokens_for(runner.config, 12), [3, 6, 3])
        assert np.isfinite(logits[:7]).all()
        assert not np.isfinite(logits[7:]).any()  # those behind attend to it


def test_options_out_of_range_are_refused(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = make_checkpoint(**BASE)
    for threads in (0, -1, 5000):
        with pytest.raises(OptionError, match="num_threads"):
            make_runner(path, num_threads=threads)
    with pytest.raises(OptionError, match="kv_cache_tokens"):
        make_runner(path, num_blocks=2**31 - 1)
    monkeypatch.setenv("GPT2FAST_FORCE_ISA", "sse9")
    with pytest.raises(OptionError, match=r"GPT2FAST_FORCE_ISA=sse9.*generic"):
        make_runner(path)


def test_a_head_too_large_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    wide = {**BASE, "n_embd": _C.MAX_HEAD_SIZE + 8, "n_head": 1, "n_inner": 8, "n_layer": 1}
    path, _ = make_checkpoint(**wide)
    with pytest.raises(UnsupportedError, match="heads of"):
        make_runner(path)


def test_default_threads_are_within_the_machine() -> None:
    import os

    assert 1 <= default_num_threads() <= (os.cpu_count() or 1)
