"""Zeros in matrices of unchanged shape: magnitude, random, Wanda, SparseGPT, at any place or n:m.

For study: the result is stored and run as a dense matrix and is no faster on any runner here
(``docs/compression.md`` has the figures). Embedding and head stay as they are.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.calibration.capture import HiddenStates
from gpt2fast.compress.calibration.moments import SecondMoment
from gpt2fast.compress.progress import ProgressCallback, quiet
from gpt2fast.compress.prune.checks import require_finite, require_float
from gpt2fast.compress.prune.masks import Pattern, mask_of_matrix
from gpt2fast.compress.prune.reconstruct import output_error
from gpt2fast.compress.prune.sparsegpt import sparsegpt
from gpt2fast.compress.prune.wanda import wanda
from gpt2fast.compress.state.journal import NOTHING_KEPT, TensorJournal
from gpt2fast.compress.state.model import CONV1D_PARTS, Model
from gpt2fast.errors import OptionError
from gpt2fast.model.gpt2 import Block, Conv1D

METHODS = ("sparsegpt", "wanda", "magnitude", "random")


@dataclass(frozen=True)
class WeightOptions:
    """How ``prune_weights`` works. Raises OptionError for what it cannot do."""

    method: str = "sparsegpt"  # of METHODS
    sparsity: float = 0.5  # of the weights of each matrix of a block; n:m decides it itself
    pattern: str = "unstructured"  # or "n:m" such as "2:4": n of m adjacent inputs stay
    damping: float = 0.01  # of SparseGPT's second moment, in units of its mean diagonal
    norm_power: float = 1.0  # of Wanda's norms of inputs; 0.5 is gentler with loud inputs
    seed: int = 0  # of "random", the control

    def __post_init__(self) -> None:
        Pattern.parse(self.pattern, self.sparsity)
        if self.method not in METHODS:
            raise OptionError(f"method = {self.method!r} is none of {', '.join(METHODS)}")
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"seed = {self.seed} must be from 0 to 2**63 - 1")
        for name in ("damping", "norm_power"):
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(f"{name} = {getattr(self, name)} must be 0 or more")


def prune_weights(
    model: Model,
    calibration: Calibration,
    options: WeightOptions = WeightOptions(),
    progress: ProgressCallback = quiet,
    journal: TensorJournal = NOTHING_KEPT,
) -> None:
    """Set weights of all matrices of all blocks to zero, block by block; the statistics of a block
    are of what the pruned blocks before it give. ``journal`` keeps the blocks that are done.

    Raises OptionError for a quantized model, and CheckpointError, naming the layer, for NaN.
    """
    require_float(model)
    network = copy.deepcopy(model.network)
    states = HiddenStates(network, calibration)
    layers: list[dict[str, Any]] = []
    for layer in range(network.config.n_layer):
        progress(f"{options.method}: block {layer + 1} of {network.config.n_layer}")
        if (done := journal.recall(f"block-{layer}")) is None:
            done = _prune_block(states, options)
            journal.keep(f"block-{layer}", *done)
        weights, errors = done
        for part, values in weights.items():
            _matrix(states.block, part).weight.copy_(values)
        layers.append({"error": errors})
        states.advance()
    model.replace_network(network)
    entry = {"pass": "prune_weights", **asdict(options), "layers": layers}
    model.history.append({**entry, "reached": sparsity(model), "calibration": calibration.origin})


def _prune_block(
    states: HiddenStates, options: WeightOptions
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The weights of the block at hand by part, with zeros, and the errors of their outputs."""
    layer, weights, errors = states.layer, {}, {}
    # Of a layer's own, so that a pass that goes on draws what a whole one draws.
    generator = torch.Generator().manual_seed((options.seed + (layer << 40)) % 2**63)
    for part, moment in _moments(states).items():
        require_finite(moment.matrix, f"the input of h.{layer}.{part}")
        weight = _matrix(states.block, part).weight
        new = _pruned(weight.T, moment, options, generator).T
        require_finite(new, f"h.{layer}.{part}.weight after {options.method}")
        errors[part] = output_error(moment, weight, new)
        weights[part] = new
    return weights, errors


def sparsity(model: Model) -> float:
    """Fraction of zeros among the weights of all matrices of the blocks."""
    names = [name for name in model.matrix_names() if name.startswith("h.")]
    weights = [model.weight(name) for name in names]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / sum(weight.numel() for weight in weights)


def _pruned(
    weight: Tensor, moment: SecondMoment, options: WeightOptions, generator: torch.Generator
) -> Tensor:
    """``weight`` (N, K) after the method's own choice of zeros."""
    pattern = Pattern.parse(options.pattern, options.sparsity)
    if options.method == "sparsegpt":
        return sparsegpt(weight, moment.matrix, pattern, options.damping)
    if options.method == "wanda":
        return wanda(weight, moment.square, pattern, options.norm_power)
    scores = weight.abs()
    if options.method == "random":
        scores = torch.rand(weight.shape, generator=generator).to(weight.device)
    return weight.masked_fill(mask_of_matrix(scores, pattern), 0.0)


def _moments(states: HiddenStates) -> dict[str, SecondMoment]:
    moments = {
        part: SecondMoment(len(_matrix(states.block, part).weight), states.states.device)
        for part in CONV1D_PARTS
    }
    states.inputs(CONV1D_PARTS, lambda part, rows: moments[part].add(rows))
    return moments


def _matrix(block: Block, part: str) -> Conv1D:
    module = block.get_submodule(part)
    assert isinstance(module, Conv1D)
    return module
