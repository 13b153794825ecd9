"""Operations that a forward pass needs, from the configuration alone.

Useful work is counted: every matrix once a token, attention over the tokens that are seen, and for
tokens that are not sampled neither the head nor anything of the last layer but key and value. What
a system computes beyond that does not raise its rate.
"""

from __future__ import annotations

from gpt2fast.config import ModelConfig


def _layer_products(config: ModelConfig) -> int:
    """Multiply-adds of one layer's matrices for one token."""
    width = config.n_embd
    return 4 * width * width + 2 * width * config.n_inner


def decode_flops(config: ModelConfig, context: float) -> float:
    """Operations of one token that sees ``context`` tokens; a multiply-add is two."""
    head = config.n_embd * config.vocab_size
    layer = _layer_products(config) + 2 * config.n_embd * context
    return 2.0 * (config.n_layer * layer + head)


def attention_flops(config: ModelConfig, prompt: int) -> float:
    """Operations of a prompt between queries and cache, which are not in the weights' format.

    Query t of a layer meets t tokens, twice; in the last layer there is the sampled one alone.
    """
    pairs = (config.n_layer - 1) * prompt * (prompt + 1) // 2 + prompt
    return 2.0 * 2 * config.n_embd * pairs


def prefill_flops(config: ModelConfig, prompt: int) -> float:
    """Operations of a prompt of ``prompt`` tokens up to the logits of its last one."""
    layer = _layer_products(config)
    keys_and_values = 2 * config.n_embd * config.n_embd
    products = (config.n_layer - 1) * prompt * layer
    last = (prompt - 1) * keys_and_values + layer
    head = config.n_embd * config.vocab_size
    return 2.0 * (products + last + head) + attention_flops(config, prompt)
