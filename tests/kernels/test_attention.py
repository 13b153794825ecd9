"""Attention over a paged cache of each format against the reference, on each instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from gpt2fast import _C  # noqa: E402
from gpt2fast.kernels import reference  # noqa: E402

Floats = NDArray[np.float32]
FORMATS = ("float32", "bfloat16", "int8")


@pytest.fixture(params=_C.available_isas())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GPT2FAST_FORCE_ISA", request.param)
    return str(request.param)


class Case:
    """Sequences of ``lens`` cached tokens and ``new`` ones each, in blocks in no order."""

    def __init__(self, lens: list[int], new: int, heads: int, size: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.lens, self.new, self.heads, self.size = np.array(lens, np.int32), new, heads, size
        width = (max(lens) + new + _C.BLOCK_TOKENS - 1) // _C.BLOCK_TOKENS
        self.num_blocks = width * len(lens) + 1
        order = rng.permutation(self.num_blocks)[: width * len(lens)]
        self.tables = np.ascontiguousarray(order.reshape(len(lens), width), np.int32)
        self.scale = 1.0 / np.sqrt(size)

        def normal(*shape: int) -> Floats:
            return rng.normal(size=shape).astype(np.float32)

        self.queries = normal(len(lens), new, heads, size) * 2
        self.keys = [normal(n + new, heads, size) * 2 for n in lens]
        self.values = [normal(n + new, heads, size) for n in lens]

    def run(self, kernels: _C.Kernels, name: str, chunk: int) -> Floats:
        """All cached at once, then ``chunk`` new tokens at a time."""
        storage = _C.KvStorage(name, self.heads, self.size, self.num_blocks)
        for table, keys, values in zip(self.tables, self.keys, self.values, strict=True):
            kernels.append(storage, table, 0, keys, values)
        parts = []
        for start in range(0, self.new, chunk):
            queries = np.ascontiguousarray(self.queries[:, start : start + chunk])
            lens = self.lens + np.int32(start)
            parts.append(kernels.attend(storage, self.tables, lens, queries, self.scale))
        return np.concatenate(parts, axis=1)

    def tensors(self, sequence: int) -> list[torch.Tensor]:
        """q, k and v (H, T or S, D)."""
        parts = (self.queries[sequence], self.keys[sequence], self.values[sequence])
        return [torch.from_numpy(part).transpose(0, 1) for part in parts]

    def expected(self, sequence: int, name: str) -> Floats:
        out = reference.cached_attention(*self.tensors(sequence), self.scale, name)
        return out.transpose(0, 1).numpy()

    def undecided(self, sequence: int) -> Floats:
        """What an 8-bit cache's result may differ by where a weight lies so near the middle between
        two integers that float32 arithmetic may round it to either."""
        q, k, v = self.tensors(sequence)
        q, k = reference.cached(q, "int8"), reference.cached(k, "int8")
        integers, scales = reference.quantize_rows(v, self.size)
        weights = reference.attention_weights(q, k, self.scale) * scales.mT
        steps = reference.quantize_rows(weights, 64)[1].repeat_interleave(64, -1)
        steps = steps[..., : weights.shape[-1]]
        fraction = torch.where(steps > 0, weights / steps, 0).frac()
        either = ((fraction - 0.5).abs() < 2e-3) * steps
        return (either @ integers.abs()).transpose(0, 1).numpy()


cases = st.builds(
    Case,
    lens=st.lists(st.integers(0, 200), min_size=1, max_size=3),
    new=st.integers(1, 40),
    heads=st.integers(1, 3),
    size=st.integers(1, 40) | st.sampled_from([64, 80, 128]),
    seed=st.integers(0, 2**32),
)


@pytest.mark.parametrize("name", FORMATS)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=cases, threads=st.integers(1, 3))
def test_attention(isa: str, name: str, case: Case, threads: int) -> None:
    got = case.run(_C.Kernels(threads), name, case.new)
    for s in range(len(case.lens)):
        want = case.expected(s, name)
        slack = case.undecided(s) if name == "int8" else 0.0
        assert (np.abs(got[s] - want) <= 2e-5 + 1e-5 * np.abs(want) + slack).all()


@pytest.mark.parametrize("name", FORMATS)
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=cases, chunk=st.integers(1, 20))
def test_bits_do_not_depend_on_chunks_or_threads(
    isa: str, name: str, case: Case, chunk: int
) -> None:
    whole = case.run(_C.Kernels(3), name, case.new)
    assert case.run(_C.Kernels(1), name, chunk).tobytes() == whole.tobytes()


def test_formats_differ_by_their_rounding() -> None:
    case = Case([100], 4, 2, 64, seed=0)
    exact = case.run(_C.Kernels(1), "float32", 4)
    errors = [np.abs(case.run(_C.Kernels(1), n, 4) - exact).max() for n in ("bfloat16", "int8")]
    assert all(1e-4 < error < 0.1 for error in errors)


def test_wrong_arguments_are_refused() -> None:
    kernels, case = _C.Kernels(1), Case([20], 1, 2, 8, seed=0)
    storage = _C.KvStorage("float32", 2, 8, case.num_blocks)
    table, keys = case.tables[0], case.keys[0]
    with pytest.raises(ValueError, match="too short for position 34"):
        kernels.append(storage, table, 14, keys, keys)
    with pytest.raises(ValueError, match="too short"):
        kernels.append(storage, table, -1, keys, keys)
    with pytest.raises(ValueError, match="no cache block 7"):
        kernels.append(storage, np.array([7, 0], np.int32), 0, keys, keys)
    with pytest.raises(ValueError, match="values must have the shape"):
        kernels.append(storage, table, 0, keys, keys[:3])
    with pytest.raises(ValueError, match="queries must have the shape"):
        kernels.attend(storage, case.tables, case.lens, case.queries[..., :4].copy(), 1.0)
    with pytest.raises(ValueError, match="too short"):
        kernels.attend(storage, case.tables, case.lens + np.int32(12), case.queries, 1.0)
    with pytest.raises(ValueError, match="unknown cache format 'int4'"):
        _C.KvStorage("int4", 2, 8, 4)
    with pytest.raises(ValueError, match="sizes must be positive"):
        _C.KvStorage("int8", 2, _C.MAX_HEAD_SIZE + 1, 4)
