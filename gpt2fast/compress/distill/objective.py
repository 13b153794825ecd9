"""The loss of a distillation, as the training loop takes it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2fast.compress.distill.hidden_states import Projections, mean_hidden_loss, recorded
from gpt2fast.compress.distill.logit_cache import LogitCache
from gpt2fast.compress.distill.losses import divergence, sampled_kl
from gpt2fast.compress.distill.options import LossOptions
from gpt2fast.compress.state.model import frozen
from gpt2fast.config import ModelConfig
from gpt2fast.errors import OptionError
from gpt2fast.model.gpt2 import GPT2
from gpt2fast.train.data import Batch
from gpt2fast.train.objective import Loss, Objective


class Distillation(Objective):
    """Divergence from a teacher, cross-entropy and hidden states, each with its weight.

    ``layers`` says which of the teacher's layers each of the student's is compared with.
    """

    def __init__(
        self,
        options: LossOptions,
        teacher: GPT2,
        student: GPT2,
        layers: Sequence[int],
        cache: LogitCache | None = None,
    ) -> None:
        self.options, self.teacher, self.student, self.cache = options, teacher, student, cache
        check_pair(teacher, student)
        frozen(teacher)
        self.layers = tuple(layers)
        width = student.config.n_embd
        if options.hidden_weight and width != teacher.config.n_embd:
            self.learned = Projections(teacher, width, len(self.layers))

    def to(self, device: torch.device) -> None:
        """Move the teacher, where it is still needed."""
        if self.options.needs_teacher:
            self.teacher.to(device)

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """The weighted sum on ``batch``, and its terms without their weights."""
        options = self.options
        inputs = batch.rows[:, :-1]
        mine = range(len(self.layers)) if options.hidden_weight else ()
        with recorded(self.student, mine) as states:
            logits = model(inputs)
        terms = self._teacher_terms(inputs, logits, states) if options.needs_teacher else {}
        if self.cache is not None:
            assert batch.numbers is not None
            drawn, entropy = self.cache.read(batch.numbers, logits.device)
            terms["divergence"] = sampled_kl(logits, drawn, entropy, options.temperature)
        if options.ce_weight:
            targets = batch.rows[:, 1:].flatten()
            terms["cross_entropy"] = F.cross_entropy(logits.flatten(0, 1).float(), targets)
        weights = {
            "divergence": options.divergence_weight,
            "cross_entropy": options.ce_weight,
            "hidden": options.hidden_weight,
        }
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return Loss(total, terms)

    def _teacher_terms(
        self, inputs: Tensor, logits: Tensor, states: list[Tensor]
    ) -> dict[str, Tensor]:
        options = self.options
        wanted = self.layers if options.hidden_weight else ()
        with torch.no_grad(), self._autocast(inputs), recorded(self.teacher, wanted) as outputs:
            targets = self.teacher(inputs)
        terms = {}
        if options.divergence_weight:
            alpha, beta = options.divergence
            terms["divergence"] = divergence(logits, targets, alpha, beta, options.temperature)
        if options.hidden_weight:
            by_layer = dict(zip(sorted(set(self.layers)), outputs, strict=True))
            mine = states if self.learned is None else self.learned(states)
            terms["hidden"] = mean_hidden_loss(mine, [by_layer[layer] for layer in self.layers])
        return terms

    def _autocast(self, inputs: Tensor) -> torch.autocast | nullcontext[None]:
        """The arithmetic in which the student runs."""
        if self.options.precision == "fp32":
            return nullcontext()
        half = torch.bfloat16 if self.options.precision == "bf16" else torch.float16
        return torch.autocast(inputs.device.type, half)


def check_pair(teacher: GPT2, student: GPT2) -> None:
    """Raise OptionError unless the two speak of the same tokens."""
    sizes = teacher.config.vocab_size, student.config.vocab_size
    if sizes[0] != sizes[1]:
        raise OptionError(
            f"the teacher has a vocabulary of {sizes[0]} tokens, the student one of {sizes[1]}; "
            "give two models with the same tokenizer"
        )


def check_context(teacher: ModelConfig, context: int) -> None:
    """Raise OptionError if the teacher has fewer positions than the windows."""
    if context > teacher.n_positions:
        raise OptionError(
            f"--context {context} exceeds the teacher's {teacher.n_positions} positions; "
            "give at most as many"
        )
