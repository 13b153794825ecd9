"""Proofs of the losses: zero where they must be, right gradients, right limits, no bias."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from gpt2fast.compress.distill.losses import (  # noqa: E402
    FORWARD_KL,
    REVERSE_KL,
    divergence,
    hidden_loss,
    sampled_kl,
)

PARAMETERS = [
    *(FORWARD_KL, REVERSE_KL, (0.2, 0.7), (0.5, 0.5), (2.0, 0.0), (0.0, 0.3)),
    *((0.4, -0.4), (0.0, 0.0), (1.5, -0.5), (-0.3, 1.1)),
]


def logits(seed: int, shape: tuple[int, ...] = (5, 11), scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("alpha", "beta"), PARAMETERS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_loss_and_gradient_are_exactly_zero_at_the_teacher(
    alpha: float, beta: float, temperature: float, dtype: torch.dtype
) -> None:
    teacher = logits(0, (3, 4, 503), 5.0).to(dtype)
    student = teacher.clone().requires_grad_()
    loss = divergence(student, teacher, alpha, beta, temperature)
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize(("alpha", "beta"), PARAMETERS)
def test_gradients_are_those_of_finite_differences(alpha: float, beta: float) -> None:
    teacher, student = logits(0), logits(1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: divergence(x, teacher, alpha, beta, 1.7), (student,), atol=1e-7
    )


@pytest.mark.parametrize(("alpha", "beta"), PARAMETERS)
def test_a_divergence_is_positive(alpha: float, beta: float) -> None:
    for seed in range(20):
        assert divergence(logits(seed), logits(seed + 100), alpha, beta) > 0


def test_the_corners_are_the_kullback_leibler_divergences() -> None:
    teacher, student = logits(0), logits(1)
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    forward = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    reverse = F.kl_div(log_p, log_q, log_target=True, reduction="batchmean")
    assert divergence(student, teacher, *FORWARD_KL).item() == pytest.approx(forward.item())
    assert divergence(student, teacher, *REVERSE_KL).item() == pytest.approx(reverse.item())
    assert forward.item() != pytest.approx(reverse.item(), rel=0.01)


def test_the_general_form_is_the_definition() -> None:
    a, b = 0.2, 0.7
    p, q = logits(0).softmax(-1), logits(1).softmax(-1)
    terms = p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)
    expected = (-terms.sum(-1) / (a * b)).mean().item()
    assert divergence(logits(1), logits(0), a, b).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("alpha", "beta"), [FORWARD_KL, REVERSE_KL, (2.0, 0.0), (0.4, -0.4), (0.0, 0.0)]
)
def test_where_the_formula_divides_by_zero_it_has_its_limit(alpha: float, beta: float) -> None:
    teacher, at, near = logits(0), logits(1).requires_grad_(), logits(1).requires_grad_()
    limit = divergence(at, teacher, alpha, beta)
    close = divergence(near, teacher, alpha + 1e-6, beta + 2e-6)
    limit.backward()
    close.backward()
    assert close.item() == pytest.approx(limit.item(), rel=1e-4)
    torch.testing.assert_close(near.grad, at.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("alpha", "beta"), [FORWARD_KL, REVERSE_KL, (0.2, 0.7)])
def test_extreme_logits_stay_finite(alpha: float, beta: float) -> None:
    teacher = (logits(0, (4, 300)) * 40).float()
    student = (logits(1, (4, 300)) * 40).float().requires_grad_()
    loss = divergence(student, teacher, alpha, beta)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_sampled_loss_has_the_expectation_of_the_whole_one() -> None:
    """Over all pairs of tokens with their probabilities, so exactly: value and gradient."""
    temperature, size = 1.3, 7
    teacher, student = logits(0, (1, size)), logits(1, (1, size)).requires_grad_()
    log_p = (teacher / temperature).log_softmax(-1)
    p = log_p.exp()[0]
    entropy = -(log_p.exp() * log_p).sum(-1)
    expected = sum(
        p[i] * p[j] * sampled_kl(student, torch.tensor([[i, j]]), entropy, temperature)
        for i in range(size)
        for j in range(size)
    )
    assert isinstance(expected, Tensor)
    (gradient,) = torch.autograd.grad(expected, student)
    whole = divergence(student, teacher, *FORWARD_KL, temperature)
    (whole_gradient,) = torch.autograd.grad(whole, student)
    assert expected.item() == pytest.approx(whole.item(), rel=1e-12)
    torch.testing.assert_close(gradient, whole_gradient, rtol=1e-10, atol=1e-12)


def test_hidden_states_are_compared_after_normalisation() -> None:
    teacher = logits(0, (2, 3, 16)).float()
    student = teacher.clone().requires_grad_()
    loss = hidden_loss(student, teacher)
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None
    assert not student.grad.any()
    assert hidden_loss(3 * teacher + 1, teacher) < 1e-4
    assert hidden_loss(logits(1, (2, 3, 16)), teacher) > 0.1
