"""One block to integers, by any of the methods."""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2fast.compress.calibration.capture import HiddenStates
from gpt2fast.compress.quantize import awq, smooth
from gpt2fast.compress.quantize.clip import round_clipped
from gpt2fast.compress.quantize.gptq import GptqOptions, gptq
from gpt2fast.compress.quantize.inputs import (
    InputStatistics,
    collect,
    damped,
    relative_error,
    sample,
)
from gpt2fast.compress.quantize.options import QuantizeOptions
from gpt2fast.compress.quantize.rtn import round_to_nearest
from gpt2fast.compress.state.model import CONV1D_PARTS, Model, QuantizedMatrix
from gpt2fast.errors import GPT2FastError
from gpt2fast.model.gpt2 import Block, Conv1D
from gpt2fast.quantization import MatrixFormat


def matrix_name(layer: int, part: str) -> str:
    """Canonical name of a matrix of a block."""
    return f"h.{layer}.{part}.weight"


@torch.no_grad()
def quantize_block(
    model: Model, layer: int, states: HiddenStates | None, options: QuantizeOptions
) -> dict[str, float]:
    """Round those matrices of a block whose format is of integers and that are not rounded yet,
    ``states`` being its inputs on the calibration text; with GPTQ, each for the inputs that those
    before it leave. Returns the relative squared error of each one's outputs (of its weights, where
    the method looks at no text) by name.

    Raises GPT2FastError naming the matrix whose numbers are not finite.
    """
    block = model.network.h[layer]
    assert isinstance(block, Block)
    forms = {part: options.format_of(matrix_name(layer, part)) for part in CONV1D_PARTS}
    done = {part for part in CONV1D_PARTS if matrix_name(layer, part) in model.matrices}
    todo = {part: form for part, form in forms.items() if form.is_integer and part not in done}
    if options.balance:
        for part in smooth.NORMS.keys() & todo.keys():
            smooth.balance(block, part)
    # What makes their inputs can still be changed.
    free = {part: form for part, form in todo.items() if part in smooth.NORMS
            or (part == smooth.VALUES and "attn.c_attn" not in done)}  # fmt: skip
    if states is not None and free:
        _smooth(block, free, states, options)
        if options.method == "awq":
            _scale(model, layer, free, states, options.damping)
    seen: dict[str, InputStatistics] = {}
    if states is not None and todo and options.method in ("clip", "awq"):
        seen = collect(states, tuple(todo))
    errors = {}
    for part, form in todo.items():
        name = matrix_name(layer, part)
        if states is not None and options.method == "gptq":
            seen = collect(states, (part,))  # as the matrices before it, rounded by now, leave it
        method = options.method
        errors[name] = quantize_matrix(model, name, form, seen.get(part), method, options)
    return errors


def quantize_matrix(
    model: Model,
    name: str,
    form: MatrixFormat,
    seen: InputStatistics | None,
    method: str,
    options: QuantizeOptions,
) -> float:
    """Replace one matrix by integers; ``seen`` tells of its inputs. Returns the relative squared
    error of its outputs, or of its weights where nothing is known of the inputs."""
    weight = model.weight(name).contiguous()
    hessian = None if seen is None else seen.hessian
    known = hessian is None or bool(torch.isfinite(hessian).all())
    if not (known and bool(torch.isfinite(weight).all())):
        raise not_finite(name, "its inputs on the calibration text" if not known else "its weights")
    matrix = _round(weight, form, hessian, method, options, name)
    if not bool(torch.isfinite(matrix.scales).all()):
        raise not_finite(name, "its scales")
    if hessian is None:
        hessian = torch.eye(weight.shape[-1])
    error = relative_error(weight, matrix.dequantize(), hessian)
    model.set_quantized(name, matrix)  # ``weight`` may be a view of what this changes
    return error


def not_finite(name: str, what: str) -> GPT2FastError:
    """The error for a matrix that cannot be quantized."""
    return GPT2FastError(
        f"{name}: {what} are not finite numbers; the checkpoint, or a pass before this one, is "
        "damaged: nothing was written"
    )


def _round(
    weight: Tensor,
    form: MatrixFormat,
    hessian: Tensor | None,
    method: str,
    options: QuantizeOptions,
    name: str,
) -> QuantizedMatrix:
    if method == "rtn":
        return round_to_nearest(weight, form)
    if method == "gptq" and hessian is not None:
        try:
            return gptq(weight, hessian, form, GptqOptions(options.damping, options.act_order))
        except ArithmeticError:
            raise not_finite(name, "the sums over its inputs") from None
    seen = None if hessian is None else damped(hessian, options.damping)
    return round_clipped(weight, form, seen)


def _smooth(
    block: Block, forms: dict[str, MatrixFormat], states: HiddenStates, options: QuantizeOptions
) -> None:
    """Make inputs and weights alike to round: by SmoothQuant's factors of a given exponent, or of
    the one that is best for each matrix whose activations are rounded as finely as its weights."""
    alpha = options.smooth
    if alpha == "auto":
        wanted = options.method in ("clip", "gptq")
        forms = {part: form for part, form in forms.items() if wanted and form.name == "int8"}
    # Values first: what they get changes the matrix that makes them.
    for part in sorted(forms, key=lambda part: part != smooth.VALUES):
        matrix = block.get_submodule(part)
        assert isinstance(matrix, Conv1D)
        weight = matrix.weight.T
        if alpha == "auto":
            rows = sample(states, part, smooth.ROWS)
            shift, factors = smooth.condition(weight, rows, forms[part])
            smooth.shift_channels(block, part, shift)
            smooth.scale_channels(block, part, factors)
        elif isinstance(alpha, (int, float)):
            largest = collect(states, (part,))[part].largest
            factors = smooth.smoothing_factors(weight, largest, alpha)
            smooth.scale_channels(block, part, factors)


def _scale(
    model: Model,
    layer: int,
    forms: dict[str, MatrixFormat],
    states: HiddenStates,
    damping: float,
) -> None:
    """Multiply channels by AWQ's factors, searched for while nothing of the block is rounded."""
    seen = collect(states, tuple(forms))
    for part, form in forms.items():
        weight = model.weight(matrix_name(layer, part)).contiguous()
        _, factors = awq.best_factors(weight, seen[part], form, damping)
        smooth.scale_channels(states.block, part, factors)
