"""Products over packed weights against the reference, for each format and instruction set."""

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
FORMATS = [
    ("float32", 0), ("bfloat16", 0), ("int8", 32), ("int8", 64), ("int8", 128),
    ("int4", 32), ("int4", 64), ("int4", 128), ("int3", 32), ("int3", 64), ("int3", 128),
]  # fmt: skip
# Of no unit of a format, of partial groups, of partial panels.
INPUTS, OUTPUTS = st.integers(1, 300), st.integers(1, 150)


@pytest.fixture(params=_C.available_isas())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GPT2FAST_FORCE_ISA", request.param)
    return str(request.param)


def normal(shape: tuple[int, ...], seed: int) -> Floats:
    """Rows of different magnitudes, as after a LayerNorm with outliers."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * rng.lognormal(size=(*shape[:-1], 1))).astype(np.float32)


def expected(x: Floats, weight: Floats, form: tuple[str, int]) -> tuple[Floats, Floats]:
    """The product, and the sum of its terms' magnitudes, by which its rounding is bounded."""
    rows, matrix = torch.from_numpy(x), torch.from_numpy(weight)
    terms = reference.round_rows(rows, *form).abs() @ reference.store_matrix(matrix, *form).abs().T
    return reference.matmul(rows, matrix, *form).numpy(), terms.numpy()


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f"{f[0]}-{f[1]}")
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.integers(1, 30),
    inputs=INPUTS,
    outputs=OUTPUTS,
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_product(
    isa: str, form: tuple[str, int], rows: int, inputs: int, outputs: int, threads: int, seed: int
) -> None:
    x, weight = normal((rows, inputs), seed), normal((outputs, inputs), seed + 1)
    kernels = _C.Kernels(threads)
    assert kernels.isa == isa
    got = kernels.matmul(x, kernels.pack_matrix(weight, *form), *form, outputs)
    want, magnitude = expected(x, weight, form)
    # The bound of a float32 sum in order; a scaled integer rounds twice more.
    assert (np.abs(got - want) <= 1.2e-7 * (inputs + 2) * magnitude + 1e-30).all()


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f"{f[0]}-{f[1]}")
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.integers(2, 40), inputs=INPUTS, outputs=OUTPUTS, seed=st.integers(0, 2**32))
def test_a_row_has_the_same_bits_alone_and_in_a_batch(
    isa: str, form: tuple[str, int], rows: int, inputs: int, outputs: int, seed: int
) -> None:
    x, weight = normal((rows, inputs), seed), normal((outputs, inputs), seed + 1)
    one, three = _C.Kernels(1), _C.Kernels(3)
    packed = one.pack_matrix(weight, *form)
    assert packed.tobytes() == three.pack_matrix(weight, *form).tobytes()
    together = three.matmul(x, packed, *form, outputs, activation="gelu_new")
    for r in range(rows):
        alone = one.matmul(x[r : r + 1], packed, *form, outputs, activation="gelu_new")
        assert alone.tobytes() == together[r].tobytes()


@pytest.mark.parametrize("name", ["linear", "gelu_new", "gelu", "relu", "silu", "quick_gelu"])
@pytest.mark.parametrize("outputs", [48, 37])
def test_bias_activation_and_residual(isa: str, name: str, outputs: int) -> None:
    x, weight = normal((5, 64), 1), normal((outputs, 64), 2) / 16
    bias, residual = normal((outputs,), 3), normal((5, outputs), 4)
    kernels = _C.Kernels(2)
    packed = kernels.pack_matrix(weight, "float32", 0)
    got = kernels.matmul(
        x, packed, "float32", 0, outputs, bias=bias, activation=name, residual=residual
    )
    product, _ = expected(x, weight, ("float32", 0))
    active = reference.activation(name)(torch.from_numpy(product + bias))
    np.testing.assert_allclose(got, active.numpy() + residual, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "form", [("float32", 0), ("bfloat16", 0), ("int8", 64), ("int4", 32), ("int3", 32)]
)
def test_what_is_no_number_stays_none(isa: str, form: tuple[str, int], bad: float) -> None:
    x, weight = normal((3, 96), 1), normal((32, 96), 2)
    x[1, 70] = bad
    kernels = _C.Kernels(1)
    got = kernels.matmul(x, kernels.pack_matrix(weight, *form), *form, 32)
    assert not np.isfinite(got[1]).any()
    assert np.isfinite(got[[0, 2]]).all()
    weight[3, 5] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        kernels.pack_matrix(weight, *form)


@pytest.mark.parametrize("form", [("int8", 32), ("int8", 128), ("int4", 32), ("int4", 64)])
def test_integers_at_their_limits(isa: str, form: tuple[str, int]) -> None:
    """The largest sums that a group can have: nothing saturates or wraps."""
    signs = np.where(normal((40, 256), 5) < 0, -1, 1).astype(np.float32)
    kernels = _C.Kernels(1)
    for x in (signs[:6] * 3, -np.abs(signs[:6]), np.abs(signs[:6])):
        for weight in (signs, np.abs(signs), -np.abs(signs), np.zeros_like(signs)):
            got = kernels.matmul(x, kernels.pack_matrix(weight, *form), *form, 40)
            np.testing.assert_allclose(got, expected(x, weight, form)[0], rtol=1e-5, atol=1e-4)


def test_rows_may_lie_apart() -> None:
    wide, weight = normal((5, 100), 1), normal((20, 64), 2)
    for form in FORMATS:
        kernels = _C.Kernels(1)
        packed = kernels.pack_matrix(weight, *form)
        got = kernels.matmul(wide[:, :64], packed, *form, 20)
        same = kernels.matmul(wide[:, :64].copy(), packed, *form, 20)
        assert got.tobytes() == same.tobytes()
        with pytest.raises(ValueError, match="rows of neighbouring values"):
            kernels.matmul(normal((64, 5), 0).T, packed, *form, 20)


def test_wrong_arguments_are_refused() -> None:
    kernels = _C.Kernels(1)
    x, weight = normal((2, 64), 0), normal((20, 64), 1)
    packed = kernels.pack_matrix(weight, "int8", 64)
    for arguments, message in [
        ((x, packed, "int4", 64, 20), "packed must have the shape"),
        ((x, packed, "int8", 64, 40), "packed must have the shape"),
        ((x, packed, "int9", 64, 20), "unknown format 'int9'"),
        ((x, packed, "int8", 33, 20), "groups of 33"),
        ((x, packed, "int8", 64, 0), "outputs must be positive"),
        ((x[0], packed, "int8", 64, 20), "x needs 2 dimensions"),
        ((x, packed, "int8", 64, 20, x[0]), "bias must have the shape"),
        ((x, packed, "int8", 64, 20, None, "gelu_11"), "gelu_11"),
        ((x, packed, "int8", 64, 20, None, "linear", [], x), "residual must have the shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            kernels.matmul(*arguments)
    with pytest.raises(ValueError, match="weights needs 2 dimensions"):
        kernels.pack_matrix(weight[:0], "int8", 64)
    with pytest.raises(ValueError, match="num_threads must be positive"):
        _C.Kernels(0)


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2FAST_FORCE_ISA", "mmx")
    with pytest.raises(ValueError, match="GPT2FAST_FORCE_ISA=mmx"):
        _C.Kernels(1)
