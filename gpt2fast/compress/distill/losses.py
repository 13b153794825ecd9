"""How far a student's distribution is from its teacher's, at each position.

Divergences are Amari's alpha-beta divergences (Cichocki, Cruces and Amari 2011; for distillation
Wang et al. 2025) of the teacher's p from the student's q. At (1, 0) this is the forward
Kullback-Leibler divergence of Hinton et al. (2015), at (0, 1) the reverse one.
Shapes: B batch, T tokens, V vocabulary, C width, K samples.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FORWARD_KL, REVERSE_KL = (1.0, 0.0), (0.0, 1.0)


def divergence(
    student: Tensor, teacher: Tensor, alpha: float, beta: float, temperature: float = 1.0
) -> Tensor:
    """Mean over positions of the alpha-beta divergence between two sets of logits (..., V), nats.

    Both are divided by ``temperature`` and the result is multiplied by its square, so that
    gradients keep their size (Hinton et al. 2015). Loss and gradient are exactly zero where the
    logits are equal. No gradient reaches the teacher.
    """
    student, teacher = student.flatten(0, -2), teacher.detach().flatten(0, -2)
    wide = torch.promote_types(student.dtype, torch.float32)  # half precision is too coarse
    scaled = student.to(wide) / temperature, teacher.to(wide) / temperature
    value: Tensor = _Divergence.apply(*scaled, alpha, beta)  # type: ignore[no-untyped-call]
    return value.mean() * temperature**2


class _Divergence(torch.autograd.Function):
    """Divergences (N,) of logits (N, V). Its gradient is written out: the one that autograd finds
    is a difference of sums that ought to be equal, and not exactly zero where it should be."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, alpha: float, beta: float) -> Tensor:
        log_q, log_p = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
        value, slope = _terms(log_p, log_q, alpha, beta)
        ctx.save_for_backward(slope - log_q.exp() * slope.sum(-1, keepdim=True))
        return value.sum(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient[:, None] * slope, None, None, None


def _terms(log_p: Tensor, log_q: Tensor, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """Each token's term of the divergence, and its derivative with respect to ``log_q``; both are
    exactly zero where p = q. The parameters at which the formula divides by zero have limits of
    their own."""
    u = log_p - log_q
    if alpha == 0.0 and beta == 0.0:
        return u * u / 2, -u
    if alpha + beta == 0.0:
        return (torch.expm1(alpha * u) - alpha * u) / alpha**2, -torch.expm1(alpha * u) / alpha
    if beta == 0.0:
        p, q = (alpha * log_p).exp(), (alpha * log_q).exp()
        return (alpha * u * p - p + q) / alpha**2, (q - p) / alpha
    if alpha == 0.0:
        p, q = (beta * log_p).exp(), (beta * log_q).exp()
        return (-beta * u * q - q + p) / beta**2, -u * q
    return _general_terms(log_p, log_q, alpha, beta)


def _general_terms(
    log_p: Tensor, log_q: Tensor, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    """-(p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)) / (a b), term by term."""
    total, u = alpha + beta, log_p - log_q
    p, q = (total * log_p).exp(), (total * log_q).exp()
    mixed = (alpha * log_p + beta * log_q).exp()
    value = (alpha / total * p + beta / total * q - mixed) / (alpha * beta)
    slope = (q - mixed) / alpha
    # Near p = q those differences are all rounding; with q taken out of them they are exact.
    near = (u.abs() * max(abs(alpha), abs(total))) < 1.0
    small = torch.expm1(alpha * u)
    near_value = q * (alpha / total * torch.expm1(total * u) - small) / (alpha * beta)
    return torch.where(near, near_value, value), torch.where(near, -q * small / alpha, slope)


def sampled_kl(
    student: Tensor, token_ids: Tensor, entropy: Tensor, temperature: float = 1.0
) -> Tensor:
    """Mean forward divergence, nats, from ``token_ids`` (..., K) drawn from the teacher at each
    position: an unbiased estimate of ``divergence(..., *FORWARD_KL)`` and of its gradient
    (Anshumann et al. 2025). A token drawn n times has the weight n / K.

    student (..., V) logits; ``entropy`` (...) of the teacher, nats. The temperature is that at
    which the tokens were drawn.
    """
    scaled = student.to(torch.promote_types(student.dtype, torch.float32)) / temperature
    cross = scaled.logsumexp(-1) - scaled.gather(-1, token_ids).mean(-1)
    return (cross - entropy).mean() * temperature**2


def hidden_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two hidden states (..., C), each normalised over C: GPT-2's
    outlier channels would decide it otherwise. Exactly zero where they are equal."""
    width = (student.shape[-1],)
    target = F.layer_norm(teacher.detach().float(), width)
    return F.mse_loss(F.layer_norm(student.float(), width), target)
