"""Operations that a forward pass needs, from the configuration alone.

Useful work is counted: every matrix once a token, the head for the rows that are sampled,
attention over the tokens that are seen. What a system computes beyond that does not raise its rate.
"""

from __future__ import annotations

from gpt2fast.config import ModelConfig


def _layer_products(config: ModelConfig) -> int:
    """Multiply-adds of a layer's matrices for one token."""
    width = config.n_embd
    return config.n_layer * (4 * width * width + 2 * width * config.n_inner)


def decode_flops(config: ModelConfig, context: float) -> float:
    """Operations of one token that sees ``context`` tokens; a multiply-add is two."""
    head = config.n_embd * config.vocab_size
    attention = 2 * config.n_layer * config.n_embd * context
    return 2.0 * (_layer_products(config) + head + attention)


def prefill_flops(config: ModelConfig, prompt: int) -> float:
    """Operations of a prompt of ``prompt`` tokens up to the logits of its last one."""
    head = config.n_embd * config.vocab_size
    attention = 2 * config.n_layer * config.n_embd * (prompt + 1) / 2
    return 2.0 * (prompt * (_layer_products(config) + attention) + head)
