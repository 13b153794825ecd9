"""What ``gpt2fast train`` is told: the run, and the model it begins with; each field is a flag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gpt2fast.config.hf_config import SUPPORTED_ACTIVATIONS
from gpt2fast.errors import OptionError
from gpt2fast.flag_names import flag_name
from gpt2fast.train.run_options import TextOptions, flag

SHAPE_DEFAULTS: dict[str, int | str] = {
    "vocab_size": 8192,
    "n_embd": 256,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 512,
    "activation": "gelu_new",
}


@dataclass(frozen=True)
class TrainOptions(TextOptions):
    """Options of ``gpt2fast train``. Raises OptionError, naming the flag, for a bad value."""

    counts: ClassVar[tuple[str, ...]] = (
        *TextOptions.counts,
        *("vocab_size", "n_embd", "n_layer", "n_head", "n_positions", "n_inner"),
    )

    init: str | None = flag(None, "model to fine-tune; without it, training starts from scratch")
    vocab_size: int | None = flag(None, "tokens of the tokenizer to train (8192)")
    tokenizer: str | None = flag(None, "directory of a tokenizer to use, instead of training one")
    n_embd: int | None = flag(None, "width (256)")
    n_layer: int | None = flag(None, "layers (4)")
    n_head: int | None = flag(None, "attention heads (4)")
    n_positions: int | None = flag(None, "longest context, tokens (512)")
    n_inner: int | None = flag(None, "width of the MLP (4 x n_embd)")
    activation: str | None = flag(None, "activation function (gelu_new)")
    untied: bool = flag(False, "give the head weights of its own")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in (*SHAPE_DEFAULTS, "n_inner") if getattr(self, name) is not None]
        if self.init and (given or self.untied):
            names = ", ".join(flag_name(name) for name in (*given, *["untied"] * self.untied))
            raise OptionError(f"{names} cannot go with --init: the model decides its shape")
        if self.tokenizer and (self.init or self.vocab_size is not None):
            other = "--init" if self.init else "--vocab-size"
            raise OptionError(f"--tokenizer cannot go with {other}, which brings one of its own")
        self._check_shape()

    def _check_shape(self) -> None:
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
