"""Typed reading of the fields of a ``config.json``; every failure names file, field and value."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from gpt2fast.errors import ConfigError, UnsupportedError, show

_ACTIVATIONS = """
    gelu gelu_10 gelu_fast gelu_new gelu_python gelu_python_tanh gelu_pytorch_tanh gelu_accurate
    hardswish laplace leaky_relu linear mish prelu quick_gelu relu relu2 relu6 sigmoid silu
    sqrtsoftplus swish tanh xielu
"""
SUPPORTED_ACTIVATIONS = frozenset(_ACTIVATIONS.split())  # all of transformers' ACT2FN

MAX_INT = 2**31 - 1  # token ids, positions and sizes are 32-bit integers

_ALIASES = {
    "n_positions": "max_position_embeddings",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
}

# Fields that decide training, task heads, sampling defaults or bookkeeping, never a logit of the
# language model in inference. Their values are not looked at.
_IRRELEVANT_FIELDS = """
    resid_pdrop embd_pdrop attn_pdrop initializer_range gradient_checkpointing use_bfloat16
    summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout
    architectures id2label label2id num_labels _num_labels problem_type finetuning_task
    task_specific_params loss_type tf_legacy_loss predict_special_tokens
    transformers_version _name_or_path name_or_path _commit_hash dtype torch_dtype torchscript
    use_cache output_past output_attentions output_hidden_states output_scores return_dict
    return_dict_in_generate attn_implementation _attn_implementation _attn_implementation_internal
    _attn_implementation_autoset _experts_implementation chunk_size_feed_forward n_ctx is_decoder
    tie_encoder_decoder tie_last_hidden_states cross_attention_hidden_size decoder_start_token_id
    sep_token_id unk_token_id prefix tokenizer_class
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size encoder_repetition_penalty bad_words_ids num_return_sequences
    forced_bos_token_id forced_eos_token_id remove_invalid_values suppress_tokens
    begin_suppress_tokens exponential_decay_length_penalty epsilon_cutoff eta_cutoff
    num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold
    assistant_lookbehind target_lookbehind max_new_tokens min_new_tokens
"""
_IRRELEVANT = frozenset(_IRRELEVANT_FIELDS.split())

# Anything but the harmless value would change the network.
_REFUSED = {
    "add_cross_attention": "cross-attention layers are not implemented; only decoders run",
    "is_encoder_decoder": "encoder-decoder models are not implemented; only decoders run",
    "quantization_config": "weights quantized by another tool cannot be read; use the original",
    "pruned_heads": "heads pruned through the configuration are not implemented",
}


def read_token_ids(value: Any, field: str, source: str) -> tuple[int, ...]:
    """Token ids of a field that may be an integer, a list of integers or null."""
    items = [] if value is None else value if isinstance(value, list) else [value]
    if all(type(item) is int and 0 <= item <= MAX_INT for item in items):
        return tuple(dict.fromkeys(items))
    raise ConfigError(
        f"{source}: {field} = {show(value)} must be a token id, a list of token ids or null"
    )


class Fields:
    """One configuration, or an entry of one; ``source`` names it in messages."""

    def __init__(self, data: Mapping[str, Any], source: str) -> None:
        if not isinstance(data, Mapping):
            raise ConfigError(f"{source}: expected a JSON object, got {show(data)}")
        self._data = data
        self._source = source

    def refuse_unsupported(self) -> None:
        for name, reason in _REFUSED.items():
            if self._data.get(name):
                value = show(self._data[name])
                raise UnsupportedError(f"{self._source}: {name} = {value}: {reason}")
        model_type = self._data.get("model_type", "gpt2")
        if model_type != "gpt2":
            raise UnsupportedError(
                f"{self._source}: model_type = {show(model_type)}: only 'gpt2' is implemented"
            )

    def warn_unknown(self, known: Iterable[str]) -> None:
        """One warning that names the fields which are neither in ``known`` nor known here."""
        known = {*known, "model_type", "eos_token_id", "head_dim", "per_layer_config"}
        known |= _IRRELEVANT | _REFUSED.keys() | set(_ALIASES.values())
        unknown = sorted(show(name) for name in self._data.keys() - known)
        if unknown:
            warnings.warn(
                f"{self._source}: unknown fields are ignored: {', '.join(unknown)}. If one of them "
                "changes what the model computes, the results will be wrong",
                stacklevel=4,
            )

    def integer(self, name: str, default: int, most: int = MAX_INT) -> int:
        value = self._get(name, default)
        if type(value) is not int or not 1 <= value <= most:
            raise self._ill(name, value, f"must be an integer from 1 to {most}")
        return value

    def inner_size(self, default: int, width: int) -> int:
        """Of an MLP; null is 4 * ``width``."""
        if "n_inner" in self._data and self._data["n_inner"] is None:
            return 4 * width
        return self.integer("n_inner", default)

    def head_size(self, expected: int) -> None:
        """``head_dim``, written beside the shapes of layers, says nothing new."""
        value = self._data.get("head_dim")
        if value is not None and (type(value) is not int or value != expected):
            raise self._ill(
                "head_dim", value, f"does not agree with n_embd and n_head, which say {expected}"
            )

    def layer_entries(self, n_layer: int) -> dict[int, Fields]:
        """Layer -> the fields that ``per_layer_config`` gives it, each named by its source."""
        field = "per_layer_config"
        raw = self._data.get(field)
        if raw is not None and not isinstance(raw, Mapping):
            raise self._ill(field, raw, "must be an object of layers and their fields, or null")
        entries: dict[int, Fields] = {}
        for key, fields in (raw or {}).items():
            is_number = isinstance(key, str) and key.isdecimal() and len(key) < 10
            layer = int(key) if is_number else key
            if type(layer) is not int or not 0 <= layer < n_layer or layer in entries:
                raise ConfigError(
                    f"{self._source}: {field} has the key {show(key)}; keys must be layers, "
                    f'"0" to "{n_layer - 1}", each once'
                )
            where = f"{self._source}: {field}[{layer}]"
            entries[layer] = Fields(fields, where)
        return entries

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """Raises UnsupportedError for a field that is not in ``known``, or its alias."""
        names = {name for field in known for name in (field, _ALIASES.get(field))}
        if unknown := self._data.keys() - names:
            raise UnsupportedError(
                f"{self._source}: {', '.join(sorted(map(show, unknown)))} cannot differ between "
                f"layers here; only {' and '.join(sorted(known))} can"
            )

    def positions(self) -> int:
        # The first releases of GPT-2 wrote both; n_ctx decides only where it stands alone.
        alone = not {"n_positions", _ALIASES["n_positions"]} & self._data.keys()
        if alone and "n_ctx" in self._data:
            return self.integer("n_ctx", 1024)
        return self.integer("n_positions", 1024)

    def boolean(self, name: str, default: bool) -> bool:
        value = self._get(name, default)
        if type(value) is not bool:
            raise self._ill(name, value, "must be true or false")
        return value

    def token_id(self, name: str, default: int | None) -> int | None:
        value = self._get(name, default)
        if name == "pad_token_id" and value == -1:  # an old convention for "no padding"
            return None
        if value is not None and (type(value) is not int or not 0 <= value <= MAX_INT):
            raise self._ill(name, value, "must be a token id or null")
        return value

    def epsilon(self) -> float:
        value = self._get("layer_norm_epsilon", 1e-5)
        ok = type(value) in (int, float) and 0 <= value <= 1  # false for NaN too
        if not ok:
            raise self._ill("layer_norm_epsilon", value, "must be a finite number from 0 to 1")
        return float(value)

    def activation(self) -> str:
        value = self._get("activation_function", "gelu_new")
        if not isinstance(value, str):
            raise self._ill("activation_function", value, "must be the name of an activation")
        if value not in SUPPORTED_ACTIVATIONS:
            raise UnsupportedError(
                f"{self._source}: activation_function = {show(value)} is not implemented; "
                f"implemented: {', '.join(sorted(SUPPORTED_ACTIVATIONS))}"
            )
        return value

    def _get(self, name: str, default: Any) -> Any:
        """The value under the field's own name or transformers' general name for it."""
        alias = _ALIASES.get(name)
        if alias is None or alias not in self._data:
            return self._data.get(name, default)
        value = self._data[alias]
        if name in self._data and self._data[name] != value:
            raise ConfigError(
                f"{self._source}: {name} = {show(self._data[name])} and {alias} = {show(value)} "
                "are two names of one field and differ; keep the right one"
            )
        return value

    def _ill(self, name: str, value: Any, need: str) -> ConfigError:
        alias = _ALIASES.get(name)
        shown = alias if alias in self._data and name not in self._data else name
        return ConfigError(f"{self._source}: {shown} = {show(value)} {need}")
