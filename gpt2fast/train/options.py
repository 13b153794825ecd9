"""What a training run is told: one frozen, validated dataclass; each field is a flag."""

from __future__ import annotations

import dataclasses
import math
import shlex
from dataclasses import dataclass
from typing import Any

from gpt2fast.config_fields import SUPPORTED_ACTIVATIONS
from gpt2fast.errors import OptionError

SHAPE_DEFAULTS: dict[str, int | str] = {
    "vocab_size": 8192,
    "n_embd": 256,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 512,
    "activation": "gelu_new",
}

MAX_THREADS = 1024

# A resumed run may change these. None but ``threads``, of which load_checkpoint warns, touches the
# weights in training or the order of the data.
_FREE_ON_RESUME = frozenset(
    {"out", "resume", "stop_at", "threads", "log_every", "eval_every", "eval_tokens", "save_every"}
    | {"keep", "dtype"}
)

_COUNTS = (
    *("vocab_size", "n_embd", "n_layer", "n_head", "n_positions", "n_inner", "context"),
    *("batch_size", "grad_accum", "steps", "threads", "log_every", "eval_every", "eval_tokens"),
    *("save_every", "keep", "stop_at"),
)


def _flag(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class TrainOptions:
    """Options of ``gpt2fast train``. Raises OptionError, naming the flag, for a bad value."""

    out: str = _flag("", "directory of the trained model, its checkpoints and its curve")
    data: tuple[str, ...] = _flag((), "UTF-8 text files, directories or globs to train on")
    held_out_data: tuple[str, ...] = _flag((), "text held out, instead of a share of the files")
    corpus: str | None = _flag(None, "a built-in corpus instead of files", ("python",))
    held_out: float = _flag(0.05, "share of the files held out; 0 for none, as a single file needs")
    init: str | None = _flag(None, "model to fine-tune; without it, training starts from scratch")
    vocab_size: int | None = _flag(None, "tokens of the tokenizer to train (8192)")
    tokenizer: str | None = _flag(None, "directory of a tokenizer to use, instead of training one")
    n_embd: int | None = _flag(None, "width (256)")
    n_layer: int | None = _flag(None, "layers (4)")
    n_head: int | None = _flag(None, "attention heads (4)")
    n_positions: int | None = _flag(None, "longest context, tokens (512)")
    n_inner: int | None = _flag(None, "width of the MLP (4 x n_embd)")
    activation: str | None = _flag(None, "activation function (gelu_new)")
    untied: bool = _flag(False, "give the head weights of its own")
    context: int | None = _flag(None, "tokens in a training sequence (n_positions)")
    batch_size: int = _flag(16, "sequences in a micro-batch, per process")
    grad_accum: int = _flag(1, "micro-batches in a step")
    steps: int = _flag(1000, "optimizer steps; the cosine ends here")
    lr: float = _flag(1e-3, "peak learning rate")
    min_lr_ratio: float = _flag(0.1, "last learning rate / peak")
    warmup: int = _flag(100, "steps of linear warm-up")
    beta1: float = _flag(0.9, "AdamW beta1")
    beta2: float = _flag(0.95, "AdamW beta2")
    weight_decay: float = _flag(0.1, "AdamW weight decay, on matrices only")
    clip: float = _flag(1.0, "largest gradient norm; 0 for no clipping")
    dropout: float = _flag(0.0, "dropout of embedding, attention and MLP")
    precision: str = _flag("fp32", "arithmetic of forward and backward", ("fp32", "bf16", "fp16"))
    seed: int = _flag(0, "seed of weights, data order and dropout")
    threads: int | None = _flag(None, "CPU threads (as many as torch takes)")
    log_every: int = _flag(10, "steps between records in metrics.jsonl")
    eval_every: int = _flag(200, "steps between held-out evaluations")
    eval_tokens: int = _flag(65536, "held-out tokens of those evaluations; the last takes all")
    save_every: int = _flag(200, "steps between checkpoints")
    keep: int = _flag(2, "checkpoints kept")
    stop_at: int | None = _flag(None, "stop after this step, at most --steps; the schedule stays")
    dtype: str = _flag("float32", "type of the saved weights", ("float32", "float16", "bfloat16"))
    resume: bool = _flag(False, "go on from the last checkpoint in --out, bit for bit")

    def __post_init__(self) -> None:
        if not self.out:
            raise OptionError("--out is missing; name the directory to write the model to")
        if bool(self.data) == bool(self.corpus):
            raise OptionError("give either text files or --corpus, and only one of the two")
        for name in _COUNTS:
            value = getattr(self, name)
            self._check(name, value is None or value >= 1, "at least 1")
        self._check("lr", 0 < self.lr < math.inf, "above 0")
        self._check("min_lr_ratio", 0 <= self.min_lr_ratio <= 1, "from 0 to 1")
        self._check("warmup", 0 <= self.warmup <= self.steps, f"from 0 to --steps ({self.steps})")
        reached = self.stop_at is None or self.stop_at <= self.steps
        self._check("stop_at", reached, f"at most --steps ({self.steps})")
        few = self.threads is None or self.threads <= MAX_THREADS
        self._check("threads", few, f"from 1 to {MAX_THREADS}")
        self._check("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        self._check("clip", 0 <= self.clip < math.inf, "0 or more")
        self._check("seed", 0 <= self.seed < 2**63, "from 0 to 2**63 - 1")
        for name in ("beta1", "beta2", "dropout", "held_out"):
            self._check(name, 0 <= getattr(self, name) < 1, "from 0 to below 1")
        for option in dataclasses.fields(self):
            choices = option.metadata["choices"]
            value = getattr(self, option.name)
            if choices and value is not None:
                self._check(option.name, value in choices, f"one of {', '.join(choices)}")
        self._check_shape()

    def _check(self, name: str, good: bool, rule: str) -> None:
        if not good:
            raise OptionError(f"{flag_name(name)} {getattr(self, name)} is not valid: give {rule}")

    def _check_shape(self) -> None:
        given = [name for name in (*SHAPE_DEFAULTS, "n_inner") if getattr(self, name) is not None]
        if self.init and (given or self.untied):
            names = ", ".join(flag_name(name) for name in (*given, *["untied"] * self.untied))
            raise OptionError(f"{names} cannot go with --init: the model decides its shape")
        if self.tokenizer and (self.init or self.vocab_size is not None):
            other = "--init" if self.init else "--vocab-size"
            raise OptionError(f"--tokenizer cannot go with {other}, which brings one of its own")
        known = self.activation is None or self.activation in SUPPORTED_ACTIVATIONS
        self._check("activation", known, f"one of {', '.join(sorted(SUPPORTED_ACTIVATIONS))}")
        width, heads = self.shape("n_embd"), self.shape("n_head")
        if self.n_embd is None:
            self._check("n_head", width % heads == 0, f"a divisor of --n-embd ({width})")
        self._check("n_embd", width % heads == 0, f"a multiple of --n-head ({heads})")
        if not self.init and self.context is not None:
            longest = self.shape("n_positions")
            self._check("context", self.context <= longest, f"at most --n-positions ({longest})")

    def shape(self, name: str) -> int:
        """A shape option of a model trained from scratch: as given, or its default."""
        given = getattr(self, name)
        return int(SHAPE_DEFAULTS[name] if given is None else given)

    def command(self) -> str:
        """The command line that gives exactly these options, fit for a shell."""
        words = ["gpt2fast", "train", *self.data]
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if option.name in ("data", "resume", "stop_at") or value == option.default:
                continue
            words.append(flag_name(option.name))
            if isinstance(value, tuple):
                words += value
            elif not isinstance(value, bool):
                words.append(str(value))
        return shlex.join(words)

    def as_dict(self) -> dict[str, Any]:
        """The options as JSON holds them."""
        fields = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    def check_resumes(self, recorded: dict[str, Any]) -> None:
        """Raise OptionError if these options would continue another run than ``recorded``."""
        for name, value in self.as_dict().items():
            if name not in _FREE_ON_RESUME and value != recorded.get(name):
                label = "PATH" if name == "data" else flag_name(name)
                raise OptionError(
                    f"{label} is {_shown(value)}, but the run in {self.out} was started with "
                    f"{_shown(recorded.get(name))}; repeat its options or choose another --out"
                )


def _shown(value: Any) -> str:
    return (" ".join(value) or "none") if isinstance(value, list) else str(value)


def flag_name(field: str) -> str:
    """``held_out`` -> ``--held-out``."""
    return "--" + field.replace("_", "-")
