"""Removing whole layers: chosen ones, those that change the stream least, or whose loss is least.

Shapes: N windows, T tokens, C width, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.calibration.capture import HiddenStates
from gpt2fast.compress.progress import ProgressCallback, quiet
from gpt2fast.compress.prune.checks import require_finite, require_float, require_predictions
from gpt2fast.compress.prune.network import rebuilt
from gpt2fast.compress.state.journal import NOTHING_KEPT, TensorJournal
from gpt2fast.compress.state.model import Model
from gpt2fast.errors import OptionError
from gpt2fast.model.gpt2 import GPT2

METHODS = ("loss", "influence")


@dataclass(frozen=True)
class LayerOptions:
    """How ``prune_layers`` works. Raises OptionError for what it cannot do."""

    remove: int = 1  # how many
    method: str = "loss"  # "influence" is one measurement, "loss" one for each layer and removal
    layers: tuple[int, ...] = ()  # the ones to remove, counted from 0, instead of a choice

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise OptionError(f"method = {self.method!r} is none of {', '.join(METHODS)}")
        if self.remove < 1:
            raise OptionError(f"remove = {self.remove} must be at least 1")
        if len(set(self.layers)) != len(self.layers) or any(layer < 0 for layer in self.layers):
            raise OptionError(f"layers = {self.layers} must be different layers, counted from 0")

    def count_in(self, layers: int) -> int:
        """How many go of ``layers``. Raises OptionError where that cannot be."""
        if unknown := [layer for layer in self.layers if layer >= layers]:
            raise OptionError(
                f"layers: there is no layer {unknown[0]}; the model has 0 to {layers - 1}"
            )
        count = len(self.layers) or self.remove
        if count >= layers:
            raise OptionError(f"{count} of {layers} layers cannot be removed; one must stay")
        return count


def prune_layers(
    model: Model,
    calibration: Calibration,
    options: LayerOptions = LayerOptions(),
    progress: ProgressCallback = quiet,
    journal: TensorJournal = NOTHING_KEPT,
) -> None:
    """Take layers out; the others go on computing what they did.

    ``influence``: those with the least block influence, all at once (ShortGPT, Men et al. 2024).
    ``loss``: one at a time, each time the one without which the cross entropy on the calibration
    text is least. Raises OptionError for a quantized model and where no layer would be left, and
    CheckpointError, naming the layer, for NaN.
    """
    require_float(model)
    count = model.config.n_layer
    remove = options.count_in(count)
    measured: list[dict[str, Any]] = []
    removed = options.layers
    if not removed and options.method == "influence":
        influences = block_influence(model.network, calibration, progress)
        measured = [{"layer": i, "influence": value} for i, value in enumerate(influences)]
        removed = tuple(sorted(range(count), key=influences.__getitem__)[:remove])
    elif not removed:
        measured = least_loss(model.network, calibration, remove, progress, journal)
        removed = tuple(step["layer"] for step in measured)
    kept = [layer for layer in range(count) if layer not in removed]
    model.replace_network(keep_layers(model.network, kept))
    entry = {"pass": "prune_layers", **asdict(options), "removed": sorted(removed)}
    model.history.append({**entry, "measured": measured, "calibration": calibration.origin})


def keep_layers(network: GPT2, kept: Sequence[int]) -> GPT2:
    """The network of the layers ``kept``, in that order, each computing what it did.

    Where scores are divided by the number of the layer, queries make up for the new number.
    """
    config = network.config
    tensors = {k: v.clone() for k, v in network.state_dict().items() if not k.startswith("h.")}
    for new, old in enumerate(kept):
        own = {name: value.clone() for name, value in network.h[old].state_dict().items()}
        if config.scale_attn_by_inverse_layer_idx:
            queries = config.layer_shape(old).n_head * config.head_size
            own["attn.c_attn.weight"][:, :queries] *= (new + 1) / (old + 1)
            own["attn.c_attn.bias"][:queries] *= (new + 1) / (old + 1)
        tensors |= {f"h.{new}.{name}": value for name, value in own.items()}
    return rebuilt(config.with_layers(config.layer_shape(old) for old in kept), tensors)


def block_influence(
    network: GPT2, calibration: Calibration, progress: ProgressCallback = quiet
) -> list[float]:
    """Of each layer: 1 - mean cosine between the stream before it and after it (ShortGPT)."""
    states = HiddenStates(network, calibration)
    found = []
    for layer in range(network.config.n_layer):
        progress(f"layers: influence of block {layer + 1} of {network.config.n_layer}")
        before = states.states.clone()
        states.advance()
        require_finite(states.states, f"the output of h.{layer}")
        similar = F.cosine_similarity(before, states.states, dim=-1)
        found.append(1.0 - float(similar.mean(dtype=torch.float64)))
    return found


def least_loss(
    network: GPT2,
    calibration: Calibration,
    remove: int,
    progress: ProgressCallback = quiet,
    journal: TensorJournal = NOTHING_KEPT,
) -> list[dict[str, Any]]:
    """Layers in the order in which they go, each with the cross entropy (nats a token) without it
    and without those before it; ``journal`` keeps each removal."""
    require_predictions(calibration, 'method = "loss"')
    left = list(range(network.config.n_layer))
    removals: list[dict[str, Any]] = []
    for number in range(remove):
        progress(f"layers: removal {number + 1} of {remove}")
        if (done := journal.recall(f"removal-{number}")) is None:
            losses = losses_without(network, left, calibration)
            layer = min(left, key=losses.__getitem__)
            done = {}, {"layer": layer, "loss": losses[layer]}
            journal.keep(f"removal-{number}", *done)
        removals.append(done[1])
        left.remove(done[1]["layer"])
    return removals


@torch.no_grad()
def losses_without(
    network: GPT2, left: Sequence[int], calibration: Calibration
) -> dict[int, float]:
    """Cross entropy, nats a token, of the network of the layers ``left`` but one, for each one."""
    totals = dict.fromkeys(left, 0.0)
    windows = torch.from_numpy(calibration.windows).to(network.wte.weight.device)
    positions = torch.arange(windows.shape[1] - 1, device=windows.device)
    for tokens in windows.split(4):
        before = network.wte(tokens[:, :-1]) + network.wpe(positions)
        for place, layer in enumerate(left):
            states = before
            for later in left[place + 1 :]:
                states = network.h[later](states)
            totals[layer] += _nats(network, states, tokens[:, 1:])
            before = network.h[layer](before)
            require_finite(before, f"the output of h.{layer}")
    return {layer: total / windows[:, 1:].numel() for layer, total in totals.items()}


def _nats(network: GPT2, states: Tensor, targets: Tensor) -> float:
    """Summed cross entropy; one window of logits at a time, as they are the largest thing here."""
    total = 0.0
    for rows, wanted in zip(states, targets, strict=True):
        logits = F.linear(network.ln_f(rows), network.head_weight)
        total += float(F.cross_entropy(logits, wanted, reduction="sum"))
    return total
