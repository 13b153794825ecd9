"""What a GPT-2 is: the fields of ``config.json`` that decide shapes and arithmetic, validated."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpt2fast.errors import ConfigError, UnsupportedError, show

_ACTIVATIONS = """
    gelu gelu_10 gelu_fast gelu_new gelu_python gelu_python_tanh gelu_pytorch_tanh gelu_accurate
    hardswish laplace leaky_relu linear mish prelu quick_gelu relu relu2 relu6 sigmoid silu
    sqrtsoftplus swish tanh xielu
"""
SUPPORTED_ACTIVATIONS = frozenset(_ACTIVATIONS.split())  # all of transformers' ACT2FN
# Parameters that an activation learns or stores in each layer, under `mlp.act.`, and their shapes.
ACTIVATION_PARAMETERS: dict[str, dict[str, tuple[int, ...]]] = {
    "prelu": {"weight": (1,)},
    "xielu": {"alpha_p": (1,), "alpha_n": (1,), "beta": (), "eps": ()},
}

# Beyond these no GPT-2 exists; a larger value is a damaged or hostile file, and would make the
# loader build endless lists of names before it could notice that the tensors are not there.
MAX_PARAMETERS = 10**11
MAX_LAYERS = 10_000
MAX_INT = 2**31 - 1  # token ids and positions are 32-bit integers

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
    "per_layer_config": "layers of different shapes are not implemented",
}


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

    @property
    def num_parameters(self) -> int:
        """Weights of the network; a tied head is counted once."""
        c, inner = self.n_embd, self.n_inner
        block = 4 * c + (3 * c * c + 3 * c) + (c * c + c) + (2 * c * inner + inner + c)
        learned = ACTIVATION_PARAMETERS.get(self.activation_function, {})
        block += sum(len(shape) for shape in learned.values())  # what has no shape is a constant
        tables = self.vocab_size * (1 if self.tie_word_embeddings else 2) + self.n_positions
        return tables * c + self.n_layer * block + 2 * c

    def attention_scale(self, layer: int) -> float:
        """Factor on ``q . k`` in ``layer`` (counted from 0)."""
        scale = self.head_size**-0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str) -> ModelConfig:
        """Read the content of a ``config.json``; ``source`` names the file in messages.

        A missing field has the default of transformers' ``GPT2Config``. Fields that cannot change a
        logit are ignored; a field that is not known is named in one warning.

        Raises ConfigError for a value that no GPT-2 can have, and UnsupportedError, by name, for
        what gpt2fast does not implement.
        """
        fields = _Fields(data, source)
        fields.refuse_unsupported()
        n_embd = fields.integer("n_embd", 768)
        config = cls(
            vocab_size=fields.integer("vocab_size", 50257),
            n_positions=fields.positions(),
            n_embd=n_embd,
            n_layer=fields.integer("n_layer", 12, most=MAX_LAYERS),
            n_head=fields.integer("n_head", 12),
            n_inner=4 * n_embd if data.get("n_inner") is None else fields.integer("n_inner", 0),
            activation_function=fields.activation(),
            layer_norm_epsilon=fields.epsilon(),
            scale_attn_weights=fields.boolean("scale_attn_weights", True),
            scale_attn_by_inverse_layer_idx=fields.boolean(
                "scale_attn_by_inverse_layer_idx", False
            ),
            reorder_and_upcast_attn=fields.boolean("reorder_and_upcast_attn", False),
            tie_word_embeddings=fields.boolean("tie_word_embeddings", True),
            bos_token_id=fields.token_id("bos_token_id", 50256),
            eos_token_ids=read_token_ids(data.get("eos_token_id", 50256), "eos_token_id", source),
            pad_token_id=fields.token_id("pad_token_id", None),
        )
        config._check_together(source)
        fields.warn_unknown()
        return config

    def to_dict(self) -> dict[str, Any]:
        """The content of a ``config.json`` that ``from_dict`` and transformers read back."""
        eos = self.eos_token_ids
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": self.vocab_size,
            "n_positions": self.n_positions,
            "n_embd": self.n_embd,
            "n_layer": self.n_layer,
            "n_head": self.n_head,
            "n_inner": self.n_inner,
            "activation_function": self.activation_function,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "scale_attn_weights": self.scale_attn_weights,
            "scale_attn_by_inverse_layer_idx": self.scale_attn_by_inverse_layer_idx,
            "reorder_and_upcast_attn": self.reorder_and_upcast_attn,
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": None if not eos else eos[0] if len(eos) == 1 else list(eos),
            "pad_token_id": self.pad_token_id,
        }

    def _check_together(self, source: str) -> None:
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"{source}: n_embd = {self.n_embd} is not divisible by n_head = {self.n_head}; "
                "every head must have the same size"
            )
        if self.num_parameters > MAX_PARAMETERS:
            raise ConfigError(
                f"{source}: vocab_size = {self.vocab_size}, n_positions = {self.n_positions}, "
                f"n_embd = {self.n_embd}, n_layer = {self.n_layer} and n_inner = {self.n_inner} "
                f"make {self.num_parameters} parameters; at most {MAX_PARAMETERS} are accepted"
            )


def read_token_ids(value: Any, field: str, source: str) -> tuple[int, ...]:
    """Token ids of a field that may be an integer, a list of integers or null."""
    items = [] if value is None else value if isinstance(value, list) else [value]
    if all(type(item) is int and 0 <= item <= MAX_INT for item in items):
        return tuple(dict.fromkeys(items))
    raise ConfigError(
        f"{source}: {field} = {show(value)} must be a token id, a list of token ids or null"
    )


class _Fields:
    """Typed reading of one configuration; every failure names file, field and value."""

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

    def warn_unknown(self) -> None:
        known = {"model_type", "activation_function", "layer_norm_epsilon", "eos_token_id"}
        known |= _IRRELEVANT | _REFUSED.keys() | _ALIASES.keys() | set(_ALIASES.values())
        known |= ModelConfig.__dataclass_fields__.keys()
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
