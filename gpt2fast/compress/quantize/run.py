"""The pass: a model's matrices to integers, block after block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from time import perf_counter
from typing import Any

import torch

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.calibration.capture import HiddenStates
from gpt2fast.compress.quantize.block import matrix_name, quantize_block, quantize_matrix
from gpt2fast.compress.quantize.inputs import InputStatistics
from gpt2fast.compress.quantize.options import QuantizeOptions
from gpt2fast.compress.state.model import CONV1D_PARTS, Model
from gpt2fast.config import ModelConfig
from gpt2fast.errors import OptionError
from gpt2fast.quantization import EMBEDDING, HEAD

Progress = Callable[[str, int, int], None]  # what is done, steps done, steps there are


def _quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


@torch.no_grad()
def quantize(
    model: Model,
    calibration: Calibration | None,
    options: QuantizeOptions,
    progress: Progress = _quiet,
) -> None:
    """Round the matrices of ``model`` in place, those of a block for the inputs that the rounded
    blocks before it make of the calibration text.

    ``progress`` is called after the embedding, each block and the head, when ``model`` is in order:
    a copy of its network and ``matrices`` taken then can be given to this function again, which
    skips what is done and comes to the same integers. Raises OptionError where text is needed and
    not given or a name in ``overrides`` is not of a matrix, GPT2FastError naming a matrix whose
    numbers are not finite.
    """
    _check(model, calibration, options)
    calibration = calibration if options.takes_calibration else None
    begin = perf_counter()
    layers = model.config.n_layer
    errors = _embedding(model, options)
    progress(EMBEDDING, 1, layers + 2)
    states = None if calibration is None else HiddenStates(model.network, calibration)
    for layer in range(layers):
        if _pending(model, layer, options):
            errors |= quantize_block(model, layer, states, options)
        if states is not None:
            states.advance()
        progress(f"h.{layer}", layer + 2, layers + 2)
    errors |= _head(model, states, options)
    model.history.append(_record(calibration, options, errors, perf_counter() - begin))
    progress(HEAD, layers + 2, layers + 2)


def _check(model: Model, calibration: Calibration | None, options: QuantizeOptions) -> None:
    if options.needs_calibration and calibration is None:
        raise OptionError(
            f"method {options.method!r} needs text to calibrate on; give some, or use 'clip'"
        )
    check_overrides(options, model.config, model.config.n_layer)


def check_overrides(options: QuantizeOptions, config: ModelConfig, layers: int) -> None:
    """Raise OptionError for an override of a matrix that a model of ``config`` with so many
    ``layers`` does not have."""
    known = {EMBEDDING} if config.tie_word_embeddings else {EMBEDDING, HEAD}
    known |= {matrix_name(layer, part) for layer in range(layers) for part in CONV1D_PARTS}
    if unknown := {name for name, _ in options.overrides} - known:
        raise OptionError(f"overrides: the model has no matrix {', '.join(sorted(unknown))}")


def _pending(model: Model, layer: int, options: QuantizeOptions) -> bool:
    names = [matrix_name(layer, part) for part in CONV1D_PARTS]
    wanted = {name for name in names if options.format_of(name).is_integer}
    return not wanted <= model.matrices.keys()


def _embedding(model: Model, options: QuantizeOptions) -> dict[str, float]:
    """Round the embedding before the blocks, so that they are calibrated on what it became; not
    where it is the head as well and waits for the inputs of that."""
    form = options.format_of(EMBEDDING)
    waits = model.config.tie_word_embeddings and options.head_rounding == "gptq"
    if waits or not form.is_integer or EMBEDDING in model.matrices:
        return {}
    method = "rtn" if options.head_rounding == "rtn" else "clip"
    return {EMBEDDING: quantize_matrix(model, EMBEDDING, form, None, method, options)}


def _head(model: Model, states: HiddenStates | None, options: QuantizeOptions) -> dict[str, float]:
    """Round the head where that was not done with the embedding."""
    name = EMBEDDING if model.config.tie_word_embeddings else HEAD
    form = options.format_of(name)
    if not form.is_integer or name in model.matrices:
        return {}
    seen = None if states is None else _head_inputs(model, states)
    return {name: quantize_matrix(model, name, form, seen, options.head_rounding, options)}


def _head_inputs(model: Model, states: HiddenStates) -> InputStatistics:
    seen = InputStatistics(model.config.n_embd)
    for batch in states.batches():
        seen.add(model.network.ln_f(batch).flatten(0, 1))
    return seen


def _record(
    calibration: Calibration | None,
    options: QuantizeOptions,
    errors: dict[str, float],
    seconds: float,
) -> dict[str, Any]:
    fields = asdict(options)
    for name in ("blocks", "head"):
        fields[name] = getattr(options, name).label
    fields["head_method"] = options.head_rounding
    fields["overrides"] = {name: form.label for name, form in options.overrides}
    return {
        "pass": "quantize",
        **fields,
        "seconds": seconds,
        "calibration": None if calibration is None else calibration.origin,
        "calibration_tokens": 0 if calibration is None else calibration.num_tokens,
        "relative_error": errors,
    }
