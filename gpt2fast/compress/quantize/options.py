"""What a quantization pass is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from gpt2fast.errors import OptionError, show
from gpt2fast.quantization import EMBEDDING, HEAD, INTEGER_FORMATS, MatrixFormat

METHODS = ("rtn", "clip", "awq", "gptq")
HEAD_METHODS = ("auto", "rtn", "clip", "gptq")
_INT4, _INT8 = MatrixFormat("int4", 64), MatrixFormat("int8", 64)


@dataclass(frozen=True)
class QuantizeOptions:
    """Raises OptionError naming a field that is out of range.

    The embedding has a format and a method of its own: tied, it is also the head, whose errors
    reach the logits directly. Even in 8 bits they are felt: rounded to nearest, each token's row is
    off by a fixed amount in the direction that all last states share. GPTQ takes that out.
    """

    method: str = "gptq"  # of the blocks' matrices: "rtn", "clip", "awq" or "gptq"
    blocks: MatrixFormat = _INT4  # of the blocks' matrices; "float32" leaves them
    head: MatrixFormat = _INT8  # of embedding and head
    head_method: str = "auto"  # "rtn", "clip", "gptq"; "auto" is that of the blocks
    overrides: tuple[tuple[str, MatrixFormat], ...] = ()  # canonical matrix name -> its own format
    balance: bool = True  # move factors of weights and LayerNorms, as the loader does
    # SmoothQuant's alpha, in [0, 1], of factors from calibration text; "auto" searches for one for
    # each matrix of 8 bits, with "clip" and "gptq"
    smooth: float | str | None = "auto"
    damping: float = 0.01  # of GPTQ, relative to the mean of the hessian's diagonal
    act_order: bool = True  # GPTQ visits columns of large inputs first

    def __post_init__(self) -> None:
        _one_of("method", self.method, METHODS)
        _one_of("head_method", self.head_method, HEAD_METHODS)
        for name, form in (("blocks", self.blocks), ("head", self.head), *self.overrides):
            if form.name not in (*INTEGER_FORMATS, "float32"):
                known = ", ".join((*INTEGER_FORMATS, "float32"))
                raise OptionError(f"{name}: cannot be made {form.label}; use one of {known}")
        alpha = self.smooth
        if not (alpha is None or alpha == "auto" or isinstance(alpha, (int, float))):
            raise OptionError(f'smooth = {show(alpha)} is not known; give "auto" or 0 to 1')
        if isinstance(alpha, (int, float)) and not 0.0 <= alpha <= 1.0:
            raise OptionError(f"smooth = {alpha} must be from 0 to 1")
        if not 0.0 <= self.damping <= 1.0:
            raise OptionError(f"damping = {self.damping} must be from 0 to 1")

    @property
    def head_rounding(self) -> str:
        """How embedding and head are rounded: "rtn", "clip" or "gptq"."""
        if self.head_method != "auto":
            return self.head_method
        return "clip" if self.method == "awq" else self.method  # nothing before the head to scale

    def format_of(self, name: str) -> MatrixFormat:
        """The format of the matrix of canonical ``name``."""
        usual = self.head if name in (EMBEDDING, HEAD) else self.blocks
        return dict(self.overrides).get(name, usual)

    @property
    def needs_calibration(self) -> bool:
        """Whether inputs of matrices must be known."""
        return (
            self.method in ("awq", "gptq")
            or isinstance(self.smooth, (int, float))
            or (self.head_rounding == "gptq" and self.head.is_integer)
        )

    @property
    def takes_calibration(self) -> bool:
        """Whether text would change anything."""
        return self.needs_calibration or self.method == "clip"


def _one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise OptionError(f"{field} = {show(value)} is not known; use one of {', '.join(known)}")
