"""What any run of the training loop is told, whatever it trains: frozen, validated dataclasses."""

from __future__ import annotations

import dataclasses
import math
import shlex
from dataclasses import dataclass
from typing import Any, ClassVar

from gpt2fast.errors import OptionError
from gpt2fast.flag_names import flag_name

MAX_THREADS = 1024
_WARMUP = 100


def flag(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    """A field that is also a flag of the command line."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class LoopOptions:
    """What the loop itself needs. Raises OptionError, naming the flag, for a bad value."""

    command_name: ClassVar[str] = "train"
    # A resumed run may change these. None but ``threads``, of which load_checkpoint warns, touches
    # the weights in training or the order of the data.
    free_on_resume: ClassVar[frozenset[str]] = frozenset(
        {"out", "resume", "stop_at", "threads", "log_every", "eval_every", "eval_tokens"}
        | {"save_every", "keep", "dtype"}
    )
    counts: ClassVar[tuple[str, ...]] = (
        *("context", "batch_size", "grad_accum", "steps", "threads", "log_every", "eval_every"),
        *("eval_tokens", "save_every", "keep", "stop_at"),
    )

    out: str = flag("", "directory of the trained model, its checkpoints and its curve")
    context: int | None = flag(None, "tokens in a training sequence (all positions of the model)")
    batch_size: int = flag(16, "sequences in a micro-batch, per process")
    grad_accum: int = flag(1, "micro-batches in a step")
    steps: int = flag(1000, "optimizer steps; the cosine ends here")
    lr: float = flag(1e-3, "peak learning rate")
    min_lr_ratio: float = flag(0.1, "last learning rate / peak")
    warmup: int | None = flag(None, f"steps of linear warm-up ({_WARMUP}, or --steps / 10 if less)")
    beta1: float = flag(0.9, "AdamW beta1")
    beta2: float = flag(0.95, "AdamW beta2")
    weight_decay: float = flag(0.1, "AdamW weight decay, on matrices only")
    clip: float = flag(1.0, "largest gradient norm; 0 for no clipping")
    dropout: float = flag(0.0, "dropout of embedding, attention and MLP")
    precision: str = flag("fp32", "arithmetic of forward and backward", ("fp32", "bf16", "fp16"))
    seed: int = flag(0, "seed of weights, data order and dropout")
    threads: int | None = flag(None, "CPU threads (as many as torch takes)")
    log_every: int = flag(10, "steps between records in metrics.jsonl")
    eval_every: int = flag(200, "steps between held-out evaluations")
    eval_tokens: int = flag(65536, "held-out tokens of those evaluations; the last takes all")
    save_every: int = flag(200, "steps between checkpoints")
    keep: int = flag(2, "checkpoints kept")
    stop_at: int | None = flag(None, "stop after this step, at most --steps; the schedule stays")
    dtype: str = flag("float32", "type of the saved weights", ("float32", "float16", "bfloat16"))
    resume: bool = flag(False, "nothing: a command that is repeated goes on where it stopped")

    def __post_init__(self) -> None:
        if not self.out:
            raise OptionError("--out is missing; name the directory to write the model to")
        for name in self.counts:
            value = getattr(self, name)
            self._check(name, value is None or value >= 1, "at least 1")
        self._check("lr", 0 < self.lr < math.inf, "above 0")
        self._check("min_lr_ratio", 0 <= self.min_lr_ratio <= 1, "from 0 to 1")
        fits = 0 <= self.warmup_steps <= self.steps
        self._check("warmup", fits, f"from 0 to --steps ({self.steps})")
        reached = self.stop_at is None or self.stop_at <= self.steps
        self._check("stop_at", reached, f"at most --steps ({self.steps})")
        few = self.threads is None or self.threads <= MAX_THREADS
        self._check("threads", few, f"from 1 to {MAX_THREADS}")
        self._check("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        self._check("clip", 0 <= self.clip < math.inf, "0 or more")
        self._check("seed", 0 <= self.seed < 2**63, "from 0 to 2**63 - 1")
        for name in ("beta1", "beta2", "dropout"):
            self._check(name, 0 <= getattr(self, name) < 1, "from 0 to below 1")
        for option in dataclasses.fields(self):
            choices = option.metadata["choices"]
            value = getattr(self, option.name)
            if choices and value is not None:
                self._check(option.name, value in choices, f"one of {', '.join(choices)}")

    def _check(self, name: str, good: bool, rule: str) -> None:
        if not good:
            raise OptionError(f"{flag_name(name)} {getattr(self, name)} is not valid: give {rule}")

    @property
    def warmup_steps(self) -> int:
        """``warmup``, or what stands for it."""
        return min(_WARMUP, self.steps // 10) if self.warmup is None else self.warmup

    def as_dict(self) -> dict[str, Any]:
        """The options as JSON holds them."""
        fields = {**dataclasses.asdict(self), "warmup": self.warmup_steps}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    def check_resumes(self, recorded: dict[str, Any]) -> None:
        """Raise OptionError, naming all that differ, if these options would continue another run
        than ``recorded``."""
        differing = [
            f"{'PATH' if name == 'data' else flag_name(name)} is {_shown(value)} and was "
            f"{_shown(recorded.get(name))}"
            for name, value in self.as_dict().items()
            if name not in self.free_on_resume and value != recorded.get(name)
        ]
        if differing:
            raise OptionError(
                f"the run in {self.out} was started with other options: {', '.join(differing)}; "
                "repeat its options or choose another --out"
            )


@dataclass(frozen=True)
class TextOptions(LoopOptions):
    """A run of the command line: the loop, and the text it is given."""

    data: tuple[str, ...] = flag((), "UTF-8 text files, directories or globs to train on")
    held_out_data: tuple[str, ...] = flag((), "text held out, instead of a share of the files")
    corpus: str | None = flag(None, "a built-in corpus instead of files", ("python",))
    held_out: float = flag(0.05, "share of the files held out; 0 for none, as a single file needs")

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.data) == bool(self.corpus):
            raise OptionError("give either text files or --corpus, and only one of the two")
        self._check("held_out", 0 <= self.held_out < 1, "from 0 to below 1")

    def command(self) -> str:
        """The command line that gives exactly these options, fit for a shell."""
        words = ["gpt2fast", self.command_name, *self.data]
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if option.name in ("data", "resume", "stop_at") or value == option.default:
                continue
            words.append(flag_name(option.name))
            if isinstance(value, tuple):
                words += map(str, value)
            elif not isinstance(value, bool):
                words.append(str(value))
        return shlex.join(words)


def _shown(value: Any) -> str:
    return (" ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
