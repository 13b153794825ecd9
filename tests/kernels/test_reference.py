"""The reference operations against transformers' activations and against formulas in float64."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from gpt2fast.config import ACTIVATION_PARAMETERS  # noqa: E402
from gpt2fast.config.hf_config import SUPPORTED_ACTIVATIONS  # noqa: E402
from gpt2fast.errors import UnsupportedError  # noqa: E402
from gpt2fast.kernels import reference  # noqa: E402
from support.packed_reference import quantize  # noqa: E402


@pytest.mark.parametrize("name", sorted(SUPPORTED_ACTIVATIONS))
def test_activation_equals_transformers(name: str) -> None:
    activations = pytest.importorskip("transformers.activations")
    x = torch.cat([torch.linspace(-30, 30, 2001), torch.randn(1000), torch.tensor([0.0, -0.0])])
    if name not in activations.ACT2FN:
        pytest.skip(f"the installed transformers has no activation {name}")
    theirs = activations.ACT2FN[name]
    own = {}
    if isinstance(theirs, torch.nn.Module):
        theirs = theirs.float()
        own = {key: value + 0.3 * (value.dim() > 0) for key, value in theirs.state_dict().items()}
        theirs.load_state_dict(own)
    with torch.no_grad():
        expected = theirs(x)
    assert set(own) == set(ACTIVATION_PARAMETERS.get(name, {}))
    torch.testing.assert_close(reference.activation(name, own)(x), expected, atol=1e-6, rtol=1e-6)


def test_activations_are_those_the_configuration_accepts() -> None:
    assert {*reference._ACTIVATIONS, *reference._LEARNED} == set(SUPPORTED_ACTIVATIONS)
    assert set(reference._LEARNED) == set(ACTIVATION_PARAMETERS)


def test_unknown_activation_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match='"gelu_11" is not known'):
        reference.activation("gelu_11")


def test_layer_norm_formula() -> None:
    x = torch.randn(3, 5, 37, dtype=torch.float64) * 4 + 1
    weight, bias = torch.randn(2, 37, dtype=torch.float64)
    variance = x.var(-1, unbiased=False, keepdim=True)
    expected = (x - x.mean(-1, keepdim=True)) / (variance + 1e-2).sqrt() * weight + bias
    torch.testing.assert_close(reference.layer_norm(x, weight, bias, 1e-2), expected)


@pytest.mark.parametrize("past", [0, 1, 13])
@pytest.mark.parametrize("upcast", [False, True])
def test_attention_formula(past: int, upcast: bool) -> None:
    new, heads, size, scale = 6, 3, 5, 0.7
    q = torch.randn(2, heads, new, size)
    k, v = torch.randn(2, 2, heads, past + new, size)
    result = reference.attention(q, k, v, scale, upcast)
    for t in range(new):
        seen = past + t + 1
        for b in range(2):
            for h in range(heads):
                scores = [
                    scale * float(q[b, h, t].double() @ k[b, h, s].double()) for s in range(seen)
                ]
                weights = [math.exp(score - max(scores)) for score in scores]
                mixed = sum(w * v[b, h, s].double() for s, w in enumerate(weights)) / sum(weights)
                torch.testing.assert_close(result[b, h, t].double(), mixed, atol=1e-5, rtol=1e-5)


def test_upcast_attention_is_closer_to_the_truth() -> None:
    q, k, v = torch.randn(3, 1, 2, 40, 16)
    truth = reference.attention(q, k, v, 1.0)
    low = [t.bfloat16() for t in (q, k, v)]
    exact_inputs = reference.attention(*(t.float() for t in low), 1.0)
    plain = reference.attention(*low, 1.0).float()
    upcast = reference.attention(*low, 1.0, upcast=True)
    assert upcast.dtype == torch.bfloat16
    error = (upcast.float() - exact_inputs).abs().mean()
    assert error < (plain - exact_inputs).abs().mean()
    assert (truth - exact_inputs).abs().max() > 0


FORMATS = [("int8", 32), ("int8", 64), ("int4", 32), ("int4", 128), ("int3", 32), ("int3", 128)]


@pytest.mark.parametrize("form", FORMATS)
def test_quantized_matrix_is_what_the_panels_hold(form: tuple[str, int]) -> None:
    weight = torch.randn(21, 200)
    weight[3, 40:75] = 0
    weight[4] *= 1e-32
    integers, scales = reference.quantize_matrix(weight, *form)
    theirs, their_scales = quantize(weight.numpy(), *form)
    assert torch.equal(scales, torch.from_numpy(their_scales))
    assert torch.equal(integers, torch.from_numpy(theirs).float())
    error = (reference.dequantize(integers, scales, form[1]) - weight).abs()
    steps = scales.abs().repeat_interleave(form[1], -1)[:, :200]
    # int4 has no +8, int3 no +4: what lies there, or beyond by the step's own rounding, is clipped.
    assert (error <= steps * (0.5001 if form[0] == "int8" else 1.04) + 1e-30).all()


@pytest.mark.parametrize("group", [32, 64, 128])
def test_quantized_rows(group: int) -> None:
    x = torch.randn(5, 200)
    x[2, :group] = 0
    integers, scales = reference.quantize_rows(x, group)
    assert scales.shape == (5, -(-200 // group))
    assert integers.abs().max() == 127
    back = reference.dequantize(integers, scales, group)
    steps = scales.repeat_interleave(group, -1)[:, :200]
    assert ((back - x).abs() <= 0.5001 * steps).all()


@pytest.mark.parametrize("form", [("float32", 0), ("bfloat16", 0), *FORMATS])
def test_matmul_of_each_format_is_near_the_exact_product(form: tuple[str, int]) -> None:
    x, weight = torch.randn(9, 200), torch.randn(21, 200)
    exact = x.double() @ weight.double().T
    error = float((reference.matmul(x, weight, *form) - exact).norm() / exact.norm())
    least, most = {
        "float32": (0.0, 1e-12), "bfloat16": (1e-4, 4e-3), "int8": (1e-3, 2e-2),
        "int4": (0.02, 0.2), "int3": (0.1, 0.4),
    }[form[0]]  # fmt: skip
    assert least <= error <= most


@pytest.mark.parametrize(("name", "most"), [("float32", 0.0), ("bfloat16", 0.03), ("int8", 0.1)])
def test_cached_attention(name: str, most: float) -> None:
    q, k, v = torch.randn(2, 3, 7, 16), torch.randn(2, 3, 40, 16), torch.randn(2, 3, 40, 16)
    exact = reference.attention(q, k, v, 0.25)
    error = float((reference.cached_attention(q, k, v, 0.25, name) - exact).abs().max())
    assert most / 100 <= error <= most
