"""The loss of a distillation against its formula, and that no option of it is passed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from gpt2fast.compress.distill.objective import Distillation  # noqa: E402
from gpt2fast.compress.distill.options import RecoverOptions  # noqa: E402
from gpt2fast.compress.state.model import Model  # noqa: E402
from gpt2fast.errors import OptionError  # noqa: E402
from gpt2fast.model.gpt2 import GPT2  # noqa: E402
from gpt2fast.train.data import Batch  # noqa: E402

LAYERS = (2, 0)  # of the teacher, for each of the student's
ROWS = torch.randint(0, 101, (3, 13), generator=torch.Generator().manual_seed(2))
WEIGHTS = {"divergence_weight": 0.7, "ce_weight": 0.3, "hidden_weight": 0.2}


def states(network: GPT2, tokens: torch.Tensor) -> list[torch.Tensor]:
    x, found = network.wte(tokens) + network.wpe(torch.arange(tokens.shape[1])), []
    for block in network.h:
        x = block(x)
        found.append(x)
    return found


def by_hand(teacher: GPT2, student: GPT2, **options: Any) -> torch.Tensor:
    """In float64, straight from the definitions."""
    inputs, targets = ROWS[:, :-1], ROWS[:, 1:]
    heat = options.get("temperature", 1.0)
    logs = [(net(inputs).double() / heat).log_softmax(-1) for net in (teacher, student)]
    (log_p, log_q), (p, q) = logs, (each.exp() for each in logs)
    if options.get("loss") == "reverse-kl":
        divergence = (q * (log_q - log_p)).sum(-1)
    elif options.get("loss") == "alpha-beta":
        a, b = options["alpha"], options["beta"]
        terms = p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)
        divergence = -terms.sum(-1) / (a * b)
    else:
        divergence = (p * (log_p - log_q)).sum(-1)
    nats = -student(inputs).double().log_softmax(-1).gather(-1, targets[..., None])
    width = (teacher.config.n_embd,)
    pairs = zip(states(student, inputs), LAYERS, strict=True)
    hidden = [
        (F.layer_norm(mine, width) - F.layer_norm(states(teacher, inputs)[layer], width)).square()
        for mine, layer in pairs
    ]
    parts = (divergence.mean() * heat**2, nats.mean(), torch.stack(hidden).mean())
    return torch.stack([w * part for w, part in zip(WEIGHTS.values(), parts, strict=True)]).sum()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 2.5},
        {"loss": "reverse-kl"},
        {"loss": "alpha-beta", "alpha": 0.3, "beta": 0.9},
        {"loss": "alpha-beta", "alpha": 0.9, "beta": 0.3, "temperature": 0.8},
    ],
)
def test_value_and_gradient(random_model: Callable[..., Model], options: dict[str, Any]) -> None:
    teacher = random_model(seed=1, n_layer=3).network
    student = random_model(seed=2).network.requires_grad_(True)
    given = RecoverOptions(**WEIGHTS, **options)
    loss = Distillation(given, teacher, student, LAYERS)(student, Batch(ROWS, None)).total
    exact = by_hand(teacher, student, **options)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)
    parameters = list(student.parameters())
    mine, wanted = (torch.autograd.grad(value, parameters) for value in (loss, exact))
    for a, b in zip(mine, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_everything_is_zero_at_the_teacher(random_model: Callable[..., Model]) -> None:
    teacher = random_model(seed=1).network
    student = random_model(seed=1).network.requires_grad_(True)
    options = RecoverOptions(divergence_weight=1.0, hidden_weight=1.0)
    loss = Distillation(options, teacher, student, (0, 1))(student, Batch(ROWS, None)).total
    assert loss.item() == 0.0
    gradients = torch.autograd.grad(loss, list(student.parameters()), allow_unused=True)
    assert all(g is None or not bool(g.any()) for g in gradients)


def test_parameters_without_a_divergence_are_refused() -> None:
    with pytest.raises(OptionError, match=r"add up to -0\.5"):
        RecoverOptions(loss="alpha-beta", alpha=-1.0, beta=0.5)
