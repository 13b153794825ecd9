"""What a GPT-2 is: the fields of ``config.json`` that decide shapes and arithmetic, validated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and flags of one GPT-2-family model, in the names of transformers' ``GPT2Config``."""

    vocab_size: int  # V; rows of wte
    n_positions: int  # longest context, tokens
    n_embd: int  # C
    n_layer: int  # L
    n_head: int  # H
    n_inner: int  # width of the MLP; 4 * C where config.json says null
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None

    @property
    def head_size(self) -> int:
        """D = C / H."""
        return self.n_embd // self.n_head

    def attention_scale(self, layer: int) -> float:
        """Factor on ``q . k`` in ``layer`` (counted from 0)."""
        scale = self.head_size**-0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale
