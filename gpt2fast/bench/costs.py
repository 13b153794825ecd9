"""Operations that a forward pass needs, from the configuration alone.

Useful work is counted: every matrix once a token, attention over the tokens that are seen, and for
tokens that are not sampled neither the head nor anything of the last layer but key and value. What
a system computes beyond that does not raise its rate.
"""

from __future__ import annotations

from gpt2fast.config import LayerShape, ModelConfig


def _attended(config: ModelConfig, layer: LayerShape) -> int:
    """Width of a layer's queries, keys and values, H D: C, or less where heads were removed."""
    return layer.n_head * config.head_size


def _products(config: ModelConfig, layer: LayerShape) -> int:
    """Multiply-adds of one layer's matrices for one token."""
    return config.n_embd * (4 * _attended(config, layer) + 2 * layer.n_inner)


def decode_flops(config: ModelConfig, context: float) -> float:
    """Operations of one token that sees ``context`` tokens; a multiply-add is two."""
    head = config.n_embd * config.vocab_size
    layers = sum(
        _products(config, layer) + 2 * _attended(config, layer) * context
        for layer in config.layer_shapes
    )
    return 2.0 * (layers + head)


def attention_flops(config: ModelConfig, prompt: int) -> float:
    """Operations of a prompt between queries and cache, which are not in the weights' format.

    Query t of a layer meets t tokens, twice; in the last layer there is the sampled one alone.
    """
    *layers, last = (_attended(config, layer) for layer in config.layer_shapes)
    return 2.0 * 2 * (sum(layers) * (prompt * (prompt + 1) // 2) + last * prompt)


def prefill_flops(config: ModelConfig, prompt: int) -> float:
    """Operations of a prompt of ``prompt`` tokens up to the logits of its last one."""
    *layers, last = config.layer_shapes
    products = prompt * sum(_products(config, layer) for layer in layers)
    keys_and_values = 2 * config.n_embd * _attended(config, last)
    products += (prompt - 1) * keys_and_values + _products(config, last)
    head = config.n_embd * config.vocab_size
    return 2.0 * (products + head) + attention_flops(config, prompt)
