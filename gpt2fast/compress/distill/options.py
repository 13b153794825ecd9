"""What a distillation is told, beside what every run is told; each field is a flag."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gpt2fast.errors import OptionError
from gpt2fast.flag_names import flag_name
from gpt2fast.train.run_options import LoopOptions, TextOptions, flag

LOSSES = ("kl", "reverse-kl", "alpha-beta")
_ALPHA, _BETA = 0.2, 0.7  # of Wang et al. (2025) for language models
MAX_SAMPLES = 4096


@dataclass(frozen=True)
class LossOptions(LoopOptions):
    """What is minimised: a weighted sum of a divergence from the teacher, the cross-entropy with
    the next token, and the difference of hidden states."""

    free_on_resume: ClassVar[frozenset[str]] = LoopOptions.free_on_resume | {"cache"}

    loss: str = flag("kl", "divergence from the teacher", LOSSES)
    alpha: float | None = flag(None, f"alpha of the alpha-beta divergence ({_ALPHA})")
    beta: float | None = flag(None, f"beta of the alpha-beta divergence ({_BETA})")
    temperature: float = flag(1.0, "what logits are divided by in the divergence")
    divergence_weight: float = flag(1.0, "weight of the divergence; 0 for none")
    ce_weight: float = flag(0.0, "weight of the cross-entropy with the next token")
    hidden_weight: float = flag(0.0, "weight of the squared difference of normalised hidden states")
    samples: int | None = flag(
        None, "tokens to draw from the teacher at each position, so that it runs once over the text"
    )
    cache: str | None = flag(None, "directory of those tokens (OUT/cache); runs may share it")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            self._check(name, value is None or math.isfinite(value), "a finite number")
            self._check(name, value is None or self.loss == "alpha-beta", "--loss alpha-beta too")
        if sum(self.divergence) < 0:
            raise OptionError(
                f"--alpha and --beta add up to {sum(self.divergence):g}: below 0 the divergence "
                "weighs what both models exclude without bound; give two that add up to 0 or more"
            )
        self._check("temperature", 0 < self.temperature < math.inf, "above 0")
        for name in ("divergence_weight", "ce_weight", "hidden_weight"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        if not self.divergence_weight + self.ce_weight + self.hidden_weight:
            raise OptionError("all weights of the loss are 0; give one of them a weight")
        if self.samples is not None:
            self._check("samples", 1 <= self.samples <= MAX_SAMPLES, f"from 1 to {MAX_SAMPLES}")
            self._check_sampled()
        elif self.cache:
            raise OptionError("--cache holds tokens drawn from the teacher: give --samples too")

    def _check_sampled(self) -> None:
        whole = self.loss != "kl" or self.hidden_weight > 0 or not self.divergence_weight
        if whole:
            raise OptionError(
                "--samples estimates the forward divergence alone: it goes with --loss kl, and "
                "without --hidden-weight, which needs the teacher at every step"
            )

    @property
    def divergence(self) -> tuple[float, float]:
        """alpha and beta of the divergence."""
        if self.loss != "alpha-beta":
            return (1.0, 0.0) if self.loss == "kl" else (0.0, 1.0)
        return (
            _ALPHA if self.alpha is None else self.alpha,
            _BETA if self.beta is None else self.beta,
        )

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher runs at every step."""
        return self.samples is None and bool(self.divergence_weight + self.hidden_weight)


@dataclass(frozen=True)
class RecoverOptions(LossOptions):
    """Options of ``recover``, which decides on ``out`` and ``resume`` itself."""

    command_name: ClassVar[str] = "recover"

    out: str = flag(".", "set by what runs it")
    batch_size: int = flag(4, "windows in a micro-batch")
    steps: int = flag(200, "optimizer steps; the cosine ends here")
    save_every: int = flag(50, "steps between checkpoints")
    keep: int = flag(1, "checkpoints kept")
    keep_zeros: bool = flag(True, "whether weights that were pruned one by one stay zero")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("context", "dropout"):
            self._check(name, not getattr(self, name), "none: the windows and the network decide")

    warmup: int | None = flag(0, "steps of linear warm-up")
    weight_decay: float = flag(0.0, "AdamW weight decay, on matrices only")
    lr: float = flag(3e-4, "peak learning rate")


@dataclass(frozen=True)
class DistillOptions(LossOptions, TextOptions):
    """Options of ``gpt2fast distill``. Raises OptionError, naming the flag, for a bad value."""

    command_name: ClassVar[str] = "distill"
    counts: ClassVar[tuple[str, ...]] = (
        *LossOptions.counts,
        *("depth", "width", "n_head", "n_inner"),
    )

    teacher: str = flag("", "model to learn from")
    student: str | None = flag(None, "model to begin with, instead of a part of the teacher")
    depth: int | None = flag(None, "layers of the student (the teacher's)")
    layers: tuple[int, ...] = flag((), "which of the teacher's, from 0 (evenly spaced)")
    width: int | None = flag(None, "n_embd of the student (the teacher's)")
    n_head: int | None = flag(None, "attention heads of the student (heads of the teacher's size)")
    n_inner: int | None = flag(None, "width of the student's MLP (in proportion to its width)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.teacher:
            raise OptionError("--teacher is missing; name the model to learn from")
        shape = ("depth", "layers", "width", "n_head", "n_inner")
        given = [name for name in shape if getattr(self, name)]
        if self.student and given:
            names = ", ".join(flag_name(name) for name in given)
            raise OptionError(f"{names} cannot go with --student: the model decides its shape")
