"""What a GPT-2 is: the fields of ``config.json`` that decide shapes and arithmetic, validated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpt2fast.config.hf_config import Fields, read_token_ids
from gpt2fast.errors import ConfigError

# Parameters that an activation learns or stores in each layer, under `mlp.act.`, and their shapes.
ACTIVATION_PARAMETERS: dict[str, dict[str, tuple[int, ...]]] = {
    "prelu": {"weight": (1,)},
    "xielu": {"alpha_p": (1,), "alpha_n": (1,), "beta": (), "eps": ()},
}

# Beyond these no GPT-2 exists; a larger value is a damaged or hostile file, and would make the
# loader build endless lists of names before it could notice that the tensors are not there.
MAX_PARAMETERS = 10**11
MAX_LAYERS = 10_000


@dataclass(frozen=True)
class LayerShape:
    """What structured pruning makes different from layer to layer."""

    n_head: int  # H of the layer; heads keep the size D that they had
    n_inner: int  # width of the layer's MLP


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and flags of one GPT-2-family model, in the names of transformers' ``GPT2Config``."""

    vocab_size: int  # V; rows of wte
    n_positions: int  # longest context, tokens
    n_embd: int  # C
    n_layer: int  # L
    n_head: int  # H; of a layer that no head was removed from
    n_inner: int  # width of the MLP (the widest of them); 4 * C where config.json says null
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    layers: tuple[LayerShape, ...] = ()  # (L,); empty where all are as n_head and n_inner say

    def __post_init__(self) -> None:
        if self.layers and len(self.layers) != self.n_layer:
            raise ConfigError(
                f"{len(self.layers)} layers of their own shapes for n_layer = {self.n_layer}; give "
                "one shape for each layer (ModelConfig.with_layers)"
            )
        for layer, shape in enumerate(self.layers):
            if not 1 <= shape.n_head <= self.n_head or shape.n_inner < 1:
                raise ConfigError(
                    f"layer {layer} cannot be {shape}: 1 to {self.n_head} heads and an n_inner of "
                    "at least 1 are needed"
                )

    @property
    def head_size(self) -> int:
        """D = C / H, in every layer; H counts the heads before any was removed."""
        return self.n_embd // self.n_head

    def layer_shape(self, layer: int) -> LayerShape:
        """Heads and MLP of ``layer`` (counted from 0)."""
        return self.layers[layer] if self.layers else LayerShape(self.n_head, self.n_inner)

    @property
    def layer_shapes(self) -> tuple[LayerShape, ...]:
        """Heads and MLP of every layer, (L,)."""
        return self.layers or (LayerShape(self.n_head, self.n_inner),) * self.n_layer

    def with_layers(self, shapes: Iterable[LayerShape]) -> ModelConfig:
        """This model with layers of ``shapes``, as many as there are: of configurations that mean
        the same model, the one that ``from_dict`` gives.

        Raises ConfigError for no layers, and for a shape without a head or an MLP.
        """
        layers = tuple(shapes)
        if not layers:
            raise ConfigError("a model needs at least one layer; leave one")
        inner = max(shape.n_inner for shape in layers)
        alike = set(layers) == {LayerShape(self.n_head, inner)}
        return replace(self, n_layer=len(layers), n_inner=inner, layers=() if alike else layers)

    @property
    def num_parameters(self) -> int:
        """Weights of the network; a tied head is counted once."""
        c = self.n_embd
        heads = sum(shape.n_head for shape in self.layer_shapes)
        inner = sum(shape.n_inner for shape in self.layer_shapes)
        learned = ACTIVATION_PARAMETERS.get(self.activation_function, {})
        vectors = 6 * c  # two LayerNorms, the biases of both projections into the residual stream
        vectors += sum(len(shape) for shape in learned.values())  # no shape: a constant
        attention = heads * self.head_size * (4 * c + 3)
        mlp = inner * (2 * c + 1)
        tables = self.vocab_size * (1 if self.tie_word_embeddings else 2) + self.n_positions
        return tables * c + self.n_layer * vectors + attention + mlp + 2 * c

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
        fields = Fields(data, source)
        fields.refuse_unsupported()
        n_embd = fields.integer("n_embd", 768)
        config = cls(
            vocab_size=fields.integer("vocab_size", 50257),
            n_positions=fields.positions(),
            n_embd=n_embd,
            n_layer=fields.integer("n_layer", 12, most=MAX_LAYERS),
            n_head=fields.integer("n_head", 12),
            n_inner=fields.inner_size(4 * n_embd, n_embd),
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
        config._check_heads(source)
        fields.head_size(config.head_size)
        config = config.with_layers(_read_layers(fields, config))
        config._check_size(source)
        fields.warn_unknown(cls.__dataclass_fields__.keys() - {"layers"})
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
            **self._layers_to_dict(),
        }

    def _layers_to_dict(self) -> dict[str, Any]:
        """What differs between layers, for each of them: as transformers writes it."""
        uniform = {"n_head": self.n_head, "n_inner": self.n_inner}
        differing = [
            name
            for name, value in uniform.items()
            if any(getattr(shape, name) != value for shape in self.layers)
        ]
        if not differing:
            return {}
        per_layer = {
            str(layer): {name: getattr(shape, name) for name in differing}
            for layer, shape in enumerate(self.layers)
        }
        return {"head_dim": self.head_size, "per_layer_config": per_layer}

    def _check_heads(self, source: str) -> None:
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"{source}: n_embd = {self.n_embd} is not divisible by n_head = {self.n_head}; "
                "every head must have the same size"
            )

    def _check_size(self, source: str) -> None:
        if self.num_parameters > MAX_PARAMETERS:
            raise ConfigError(
                f"{source}: vocab_size = {self.vocab_size}, n_positions = {self.n_positions}, "
                f"n_embd = {self.n_embd}, n_layer = {self.n_layer} and n_inner = {self.n_inner} "
                f"make {self.num_parameters} parameters; at most {MAX_PARAMETERS} are accepted"
            )


def _read_layers(fields: Fields, config: ModelConfig) -> list[LayerShape]:
    """Shapes of all layers; those without an entry of their own are uniform."""
    layers = [config.layer_shape(0)] * config.n_layer
    for layer, entry in fields.layer_entries(config.n_layer).items():
        heads = entry.integer("n_head", config.n_head, most=config.n_head)
        inner = entry.inner_size(config.n_inner, config.n_embd)
        entry.refuse_unknown({"n_head", "n_inner"})
        layers[layer] = LayerShape(heads, inner)
    return layers
