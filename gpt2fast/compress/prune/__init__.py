"""Pruning: layers, heads and neurons go for real; single weights become zero, for study."""

from gpt2fast.compress.prune.heads import HeadOptions, prune_heads
from gpt2fast.compress.prune.layers import LayerOptions, prune_layers
from gpt2fast.compress.prune.neurons import NeuronOptions, prune_neurons
from gpt2fast.compress.prune.unstructured import WeightOptions, prune_weights, sparsity

__all__ = [
    "HeadOptions",
    "LayerOptions",
    "NeuronOptions",
    "WeightOptions",
    "prune_heads",
    "prune_layers",
    "prune_neurons",
    "prune_weights",
    "sparsity",
]
