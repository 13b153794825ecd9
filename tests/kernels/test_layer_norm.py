"""LayerNorm against the reference, on each instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from gpt2fast import _C  # noqa: E402
from gpt2fast.kernels import reference  # noqa: E402


@pytest.mark.parametrize("isa", _C.available_isas())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.integers(1, 20),
    width=st.integers(1, 400) | st.sampled_from([768, 1600]),
    offset=st.floats(-10, 10),
    epsilon=st.sampled_from([1e-5, 1e-12, 0.1]),
    seed=st.integers(0, 2**32),
)
def test_layer_norm(
    monkeypatch: pytest.MonkeyPatch,
    isa: str,
    rows: int,
    width: int,
    offset: float,
    epsilon: float,
    seed: int,
) -> None:
    monkeypatch.setenv("GPT2FAST_FORCE_ISA", isa)
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(rows, width)) * 3 + offset).astype(np.float32)
    weight, bias = rng.normal(size=(2, width)).astype(np.float32)
    got = _C.Kernels(2).layer_norm(x, weight, bias, epsilon)
    want = reference.layer_norm(
        *(torch.from_numpy(a.astype(np.float64)) for a in (x, weight, bias)), epsilon
    ).numpy()
    if width > 1:  # one value alone has no variance: only rounding is left of x - mean
        spread = x.std(axis=1, keepdims=True).astype(np.float64)
        # A rounding of x - mean, relative to the spread, is what remains in the quotient.
        tolerance = 1e-6 * (4 + np.abs(x) / np.sqrt(spread**2 + epsilon)) * np.abs(weight)
        assert (np.abs(got - want) <= tolerance + 1e-6 * np.abs(want)).all()
    else:
        np.testing.assert_array_equal(got, np.broadcast_to(bias, (rows, 1)))
    alone = _C.Kernels(1)
    for r in range(rows):
        assert alone.layer_norm(x[r : r + 1], weight, bias, epsilon).tobytes() == got[r].tobytes()


def test_wrong_shapes_are_refused() -> None:
    kernels, x = _C.Kernels(1), np.ones((2, 8), np.float32)
    with pytest.raises(ValueError, match=r"weight must have the shape"):
        kernels.layer_norm(x, x[0, :7].copy(), x[0], 1e-5)
    with pytest.raises(ValueError, match="x needs 2 dimensions"):
        kernels.layer_norm(x[0], x[0], x[0], 1e-5)
