"""What onnxruntime-genai wants to know of an export: ``genai_config.json``.

It runs the graph as a plain decoder: its own type "gpt2" is for graphs that keep keys and values of
a layer in one tensor.
"""

from __future__ import annotations

from typing import Any

from gpt2fast.checkpoint.weight_files import GRAPH
from gpt2fast.config import ModelConfig

NAME = "genai_config.json"
_SILENT = 3  # of the input that has a default there is a warning


def genai_config(config: ModelConfig, *, shares_cache: bool) -> dict[str, Any] | None:
    """The fields of the file; None where it cannot describe the model: layers that differ in heads
    have no place in it."""
    heads = {shape.n_head for shape in config.layer_shapes}
    if len(heads) > 1:
        return None
    (count,), eos = heads, list(config.eos_token_ids)
    known = [token for token in (config.bos_token_id, *eos) if token is not None]
    end = eos or known or [config.vocab_size]  # one that is never drawn
    return {
        "model": {
            "type": "decoder",
            "vocab_size": config.vocab_size,
            "context_length": config.n_positions,
            "bos_token_id": end[0] if config.bos_token_id is None else config.bos_token_id,
            "eos_token_id": end,
            "pad_token_id": end[0],
            "decoder": {
                "filename": GRAPH,
                "session_options": {"log_severity_level": _SILENT, "provider_options": []},
                "hidden_size": config.n_embd,
                "head_size": config.head_size,
                "num_attention_heads": count,
                "num_key_value_heads": count,
                "num_hidden_layers": config.n_layer,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": config.n_positions,
            "past_present_share_buffer": shares_cache,
        },
    }
