"""How much heads and neurons matter, in measures that can be compared between layers.

Shapes: N windows, T tokens, U units of a layer, D rows of a unit, C width, R rows seen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.calibration.capture import HiddenStates
from gpt2fast.compress.calibration.moments import SecondMoment
from gpt2fast.compress.progress import ProgressCallback
from gpt2fast.compress.prune.checks import require_finite, require_predictions
from gpt2fast.compress.prune.elimination import removal_costs
from gpt2fast.compress.prune.units import Units
from gpt2fast.compress.state.journal import NOTHING_KEPT, TensorJournal
from gpt2fast.compress.state.model import Model
from gpt2fast.model.gpt2 import GPT2

IMPORTANCES = ("reconstruction", "activation", "gradient")
_WINDOWS = 16  # whose gradients are a step
Score = Callable[[HiddenStates, Units], Tensor]  # of the block at hand: (U,)


def importance(
    model: Model,
    calibration: Calibration,
    units: Units,
    method: str,
    progress: ProgressCallback,
    journal: TensorJournal = NOTHING_KEPT,
) -> list[Tensor]:
    """Importance of each unit of each layer: (U,) float64 for each layer.

    ``activation``: mean squared length of what the unit adds to the residual stream, beyond its
    mean, which a bias can keep. ``reconstruction``: what removing it adds to the squared error
    although the others take over by least squares (``elimination.py``). Both are relative to the
    mean squared length of the stream there. ``gradient``: the first-order change of the loss, in
    nats a token, when the unit is taken out (Michel et al. 2019; Molchanov et al. 2019).
    ``journal`` keeps what was measured of a layer, or of some windows' gradients.
    """
    if method == "gradient":
        require_predictions(calibration, 'importance = "gradient"')
        scores = _gradient(model.network, calibration, units, progress, journal)
    else:
        score = {"activation": _activation, "reconstruction": _reconstruction}[method]
        scores = []
        states = HiddenStates(model.network, calibration)
        for layer in range(model.config.n_layer):
            progress(f"{units.name}: importance in block {layer + 1} of {model.config.n_layer}")
            if (done := journal.recall(f"importance-{layer}")) is None:
                stream = states.states.square().sum(-1).mean(dtype=torch.float64)
                done = {"scores": score(states, units) / stream}, None
                journal.keep(f"importance-{layer}", *done)
            scores.append(done[0]["scores"])
            states.advance()
    for layer, values in enumerate(scores):
        require_finite(values, f"the importance of {units.name} of h.{layer}")
    return scores


def _activation(states: HiddenStates, units: Units) -> Tensor:
    config, weight = states.network.config, units.project(states.block).weight.double()
    count, size = units.count(config, states.layer), units.size(config)
    outer = weight.new_zeros(count, size, size)
    mean = weight.new_zeros(count, size)
    seen = 0

    def add(_part: str, rows: Tensor) -> None:
        nonlocal seen
        seen += len(rows)
        own = rows.unflatten(1, (count, size)).transpose(0, 1)  # (U, R, D)
        outer.add_(own.transpose(1, 2) @ own)
        mean.add_(own.sum(1, dtype=torch.float64))

    states.inputs((units.projection,), add)
    mean /= seen
    covariance = outer / seen - mean[:, :, None] * mean[:, None, :]
    own = weight.unflatten(0, (count, size))  # (U, D, C)
    contribution: Tensor = (own * (covariance @ own)).sum((1, 2))
    return contribution.clamp(min=0)


def _reconstruction(states: HiddenStates, units: Units) -> Tensor:
    weight = units.project(states.block).weight
    moment = SecondMoment(len(weight), weight.device)
    states.inputs((units.projection,), lambda _part, rows: moment.add(rows))
    place = f"the input of h.{states.layer}.{units.projection}"
    require_finite(moment.matrix, place)
    return removal_costs(moment.covariance, weight.double(), units.size(states.network.config))


def _gradient(
    network: GPT2,
    calibration: Calibration,
    units: Units,
    progress: ProgressCallback,
    journal: TensorJournal,
) -> list[Tensor]:
    """Mean over windows of ``|d loss / d gate|``, a gate of 1 on what each unit gives."""
    layers = range(network.config.n_layer)
    counts = [units.count(network.config, layer) for layer in layers]
    device = network.wte.weight.device
    scores = [torch.zeros(count, dtype=torch.float64, device=device) for count in counts]
    parts = torch.from_numpy(calibration.windows).to(device).split(_WINDOWS)
    for number, tokens in enumerate(parts):
        progress(f"{units.name}: gradients, {number + 1} of {len(parts)}")
        if (done := journal.recall(f"gradient-{number}")) is None:
            slopes = _gate_slopes(network, tokens, units, counts)
            done = {str(layer): slopes[layer] for layer in layers}, None
            journal.keep(f"gradient-{number}", *done)
        for layer in layers:
            scores[layer] += done[0][str(layer)] / len(calibration.windows)
    return scores


def _gate_slopes(network: GPT2, windows: Tensor, units: Units, counts: list[int]) -> list[Tensor]:
    """Sums over ``windows`` of ``|d loss / d gate|``: (U,) float64 for each layer."""
    device, layers = windows.device, range(len(counts))
    scores = [torch.zeros(count, dtype=torch.float64, device=device) for count in counts]
    for tokens in windows.split(2):
        gates = [torch.ones(len(tokens), count, 1, device=device) for count in counts]
        hooks = [
            units.project(network.h[layer]).register_forward_pre_hook(_gated(gates[layer]))  # type: ignore[arg-type]
            for layer in layers
        ]
        try:
            for gate in gates:
                gate.requires_grad_()
            logits = network(tokens[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
            slopes = torch.autograd.grad(loss / (tokens.shape[1] - 1), gates)
        finally:
            for hook in hooks:
                hook.remove()
        for score, slope in zip(scores, slopes, strict=True):
            score += slope[..., 0].abs().sum(0)
    return scores


def _gated(gate: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    """Multiply what units give, (B, T, U * D), by their gates (B, U, 1)."""

    def hook(_module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        own = arguments[0].unflatten(-1, (gate.shape[1], -1))
        return ((own * gate[:, None]).flatten(-2),)

    return hook
