"""Removing heads or neurons: the pass that both share.

The importances of all layers are measured on the whole model; then block after block loses its
units and is made up for by least squares on what the smaller blocks before it give.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.calibration.capture import HiddenStates
from gpt2fast.compress.calibration.moments import SecondMoment
from gpt2fast.compress.progress import ProgressCallback
from gpt2fast.compress.prune.checks import require_finite, require_float, require_fraction
from gpt2fast.compress.prune.importance import IMPORTANCES, importance
from gpt2fast.compress.prune.network import rebuilt
from gpt2fast.compress.prune.reconstruct import reconstruct, removal_error
from gpt2fast.compress.prune.selection import Kept, keep_global, keep_uniform
from gpt2fast.compress.prune.units import Units
from gpt2fast.compress.state.journal import NOTHING_KEPT, TensorJournal
from gpt2fast.compress.state.model import Model
from gpt2fast.errors import OptionError


@dataclass(frozen=True)
class StructuredOptions:
    """What heads and neurons have in common. Raises OptionError for what is out of range."""

    keep: float = 0.75  # fraction of all units that stays
    importance: str = "reconstruction"  # or "activation" or "gradient"
    reconstruct: bool = True  # fit what remains to what there was, by least squares
    ridge: float = 1e-3  # pull of that fit to the original weights, of the mean variance

    def __post_init__(self) -> None:
        require_fraction("keep", self.keep)
        if self.importance not in IMPORTANCES:
            known = ", ".join(IMPORTANCES)
            raise OptionError(f"importance = {self.importance!r} is none of {known}")
        if not self.ridge >= 0:
            raise OptionError(f"ridge = {self.ridge} must not be negative")


def prune_units(
    model: Model,
    calibration: Calibration,
    units: Units,
    options: StructuredOptions,
    uniform: bool,
    multiple: int,
    progress: ProgressCallback,
    journal: TensorJournal,
) -> None:
    """Keep a fraction of the units of ``model``: see ``prune_heads`` and ``prune_neurons``."""
    require_float(model)
    scores = importance(model, calibration, units, options.importance, progress, journal)
    select = keep_uniform if uniform else keep_global
    kept = select(scores, options.keep, multiple)
    layers = remove_units(model, calibration, units, kept, options, progress, journal)
    for entry, values, stay in zip(layers, scores, kept, strict=True):
        entry["importance"] = _summary(values, stay)
    entry = {"pass": f"prune_{units.name}", **asdict(options), "layers": layers}
    model.history.append({**entry, "calibration": calibration.origin})


def remove_units(
    model: Model,
    calibration: Calibration,
    units: Units,
    kept: Kept,
    options: StructuredOptions,
    progress: ProgressCallback,
    journal: TensorJournal = NOTHING_KEPT,
) -> list[dict[str, Any]]:
    """Leave the units ``kept`` of each layer, and say for each how many stay of how many, and the
    relative squared error of the projection's output before and after the fit. ``journal`` keeps
    the blocks that are done."""
    network, config = copy.deepcopy(model.network), model.config
    states = HiddenStates(network, calibration)
    entries = []
    for layer, stay in enumerate(kept):
        progress(f"{units.name}: block {layer + 1} of {config.n_layer}")
        entry = {"kept": len(stay), "of": units.count(config, layer)}
        if entry["kept"] < entry["of"]:
            entry |= _remove_or_recall(states, units, stay, options, journal)
        entries.append(entry)
        states.advance()
    shapes = [units.shape(config, layer, len(stay)) for layer, stay in enumerate(kept)]
    model.replace_network(rebuilt(config.with_layers(shapes), network.state_dict()))
    return entries


def _remove_or_recall(
    states: HiddenStates,
    units: Units,
    stay: Tensor,
    options: StructuredOptions,
    journal: TensorJournal,
) -> dict[str, Any]:
    name, block = f"block-{states.layer}", states.block
    done = journal.recall(name)
    if done is None:
        errors = _remove(states, units, stay, options)
        journal.keep(name, block.state_dict(), errors)
        return errors
    tensors, facts = done
    units.remove(block, stay)
    block.load_state_dict(tensors)
    return dict(facts)


def _remove(
    states: HiddenStates, units: Units, stay: Tensor, options: StructuredOptions
) -> dict[str, Any]:
    project = units.project(states.block)
    place = f"h.{states.layer}.{units.projection}"
    moment = SecondMoment(len(project.weight), project.weight.device)
    states.inputs((units.projection,), lambda _part, rows: moment.add(rows))
    require_finite(moment.matrix, f"the input of {place}")
    weight, bias = project.weight.clone(), project.bias.clone()
    rows = units.rows(states.network.config, stay)
    units.remove(states.block, stay)
    plain = removal_error(moment, weight, rows, project.weight, torch.zeros_like(bias))
    if not options.reconstruct:
        return {"error": plain}
    new, shifted = reconstruct(moment, weight, bias, rows, options.ridge)
    require_finite(new, f"{place}.weight after the fit")
    project.weight.copy_(new)
    project.bias.copy_(shifted)
    fitted = removal_error(moment, weight, rows, new, shifted - bias)
    return {"error_unreconstructed": plain, "error": fitted}


def _summary(values: Tensor, kept: Tensor) -> dict[str, float]:
    """The least important unit that stays, and the sums of what stays and of what goes."""
    stay = values[kept]
    total = float(values.sum())
    return {
        "least_kept": float(stay.min()),
        "kept": float(stay.sum()),
        "removed": max(0.0, total - float(stay.sum())),
    }
