"""config.json is read as transformers reads it, and refused by field and value where ill."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast.checkpoint.names import expected_shapes
from gpt2fast.config import LayerShape, ModelConfig
from gpt2fast.errors import ConfigError, GPT2FastError, UnsupportedError
from support.model_grid import FLAG_GRID

SOURCE = "some/config.json"


def read(**fields: Any) -> ModelConfig:
    return ModelConfig.from_dict(fields, SOURCE)


def test_defaults_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every field that transformers writes is known
        ours = ModelConfig.from_dict(transformers.GPT2Config().to_dict(), SOURCE)
    assert ours == read()
    assert (ours.n_inner, ours.eos_token_ids, ours.head_size) == (3072, (50256,), 64)


@pytest.mark.parametrize("fields", FLAG_GRID)
def test_round_trips_through_transformers(fields: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Config(**fields)
    ours = ModelConfig.from_dict(theirs.to_dict(), SOURCE)
    again = transformers.GPT2Config(**ours.to_dict())
    assert ModelConfig.from_dict(ours.to_dict(), SOURCE) == ours
    assert ModelConfig.from_dict(again.to_dict(), SOURCE) == ours
    assert all(getattr(ours, k) == v for k, v in fields.items())


def test_general_names_mean_the_same_fields() -> None:
    config = read(
        hidden_size=60, num_attention_heads=3, num_hidden_layers=5, max_position_embeddings=77
    )
    assert (config.n_embd, config.n_head, config.n_layer, config.n_positions) == (60, 3, 5, 77)
    with pytest.raises(ConfigError, match=r"n_embd = 60 and hidden_size = 48"):
        read(n_embd=60, hidden_size=48, n_head=3)


def test_n_ctx_decides_only_where_it_stands_alone() -> None:
    assert read(n_ctx=333).n_positions == 333
    assert read(n_ctx=333, n_positions=22).n_positions == 22
    assert read(n_ctx=None, max_position_embeddings=44).n_positions == 44


@pytest.mark.parametrize(
    ("value", "ids"), [(None, ()), (7, (7,)), ([7, 9, 7], (7, 9)), ([], ()), (0, (0,))]
)
def test_end_of_text_may_be_null_one_or_many(value: Any, ids: tuple[int, ...]) -> None:
    config = read(eos_token_id=value)
    assert config.eos_token_ids == ids
    assert ModelConfig.from_dict(config.to_dict(), SOURCE) == config


def test_every_activation_of_transformers_is_accepted() -> None:
    activations = pytest.importorskip("transformers.activations")
    for name in activations.ACT2CLS:
        assert read(activation_function=name).activation_function == name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("add_cross_attention", True),
        ("is_encoder_decoder", True),
        ("quantization_config", {"quant_method": "gptq"}),
        ("pruned_heads", {"0": [1]}),
        ("model_type", "llama"),
        ("model_type", None),
        ("activation_function", "no_such"),
    ],
)
def test_unsupported_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UnsupportedError, match=f"{SOURCE}: {field} = ") as caught:
        read(**{field: value})
    assert str(value)[:8] in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_embd", -3),
        ("n_embd", 0),
        ("n_embd", 768.0),
        ("n_embd", "768"),
        ("n_embd", None),
        ("n_layer", True),
        ("n_layer", 10**9),
        ("n_head", 0),
        ("n_head", 7),
        ("n_inner", -1),
        ("n_inner", False),
        ("n_inner", 10**12),
        ("vocab_size", 10**12),
        ("n_positions", 2**31 - 1),
        ("hidden_size", -5),
        ("layer_norm_epsilon", float("nan")),
        ("layer_norm_epsilon", float("inf")),
        ("layer_norm_epsilon", -1e-5),
        ("layer_norm_epsilon", True),
        ("layer_norm_epsilon", "1e-5"),
        ("scale_attn_weights", 1),
        ("tie_word_embeddings", "false"),
        ("reorder_and_upcast_attn", None),
        ("eos_token_id", -1),
        ("eos_token_id", [3, True]),
        ("eos_token_id", 2.0),
        ("bos_token_id", -7),
        ("activation_function", 5),
    ],
)
def test_ill_value_is_refused_by_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**{field: value})
    message = str(caught.value)
    assert message.startswith(SOURCE)
    assert f"{field} = {value!r}" in message


def test_irrelevant_fields_are_not_looked_at() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = read(attn_pdrop="much", torch_dtype="float16", summary_type=3, top_k=-1, n_ctx=1)
    assert config.n_positions == 1
    assert read(pad_token_id=-1).pad_token_id is None


def test_unknown_fields_are_named_in_one_warning() -> None:
    with pytest.warns(UserWarning, match="rope_theta.*rotary") as caught:
        assert read(rotary=True, rope_theta=1.0) == read()
    assert len(caught) == 1


def test_attention_scale() -> None:
    assert read(n_embd=60, n_head=3).attention_scale(4) == 20**-0.5
    by_layer = read(n_embd=64, n_head=4, scale_attn_by_inverse_layer_idx=True)
    assert by_layer.attention_scale(3) == 0.25 / 4
    plain = read(scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True)
    assert plain.attention_scale(1) == 0.5


PRUNED = {"n_embd": 64, "n_head": 4, "n_layer": 3, "n_inner": 200}


def test_layers_of_their_own_shapes() -> None:
    config = read(**PRUNED, per_layer_config={"0": {"n_head": 1, "n_inner": 7}, "2": {"n_head": 3}})
    assert config.layers == (LayerShape(1, 7), LayerShape(4, 200), LayerShape(3, 200))
    assert [config.layer_shape(i) for i in range(3)] == list(config.layers)
    assert (config.head_size, config.attention_scale(0)) == (16, 0.25)
    written = config.to_dict()
    assert written["head_dim"] == 16
    assert written["per_layer_config"]["1"] == {"n_head": 4, "n_inner": 200}
    assert ModelConfig.from_dict(written, SOURCE) == config


def test_uniform_layers_have_one_form() -> None:
    alike = {str(layer): {"n_inner": 50} for layer in range(3)}
    config = read(**PRUNED, per_layer_config=alike)
    assert config == read(**{**PRUNED, "n_inner": 50})
    assert (config.layers, config.layer_shape(2)) == ((), LayerShape(4, 50))
    assert "per_layer_config" not in config.to_dict()
    assert "head_dim" not in config.to_dict()
    for nothing in (None, {}, {"1": {}}, {"1": {"num_attention_heads": 4}}):
        assert read(**PRUNED, per_layer_config=nothing, head_dim=16) == read(**PRUNED)
    # Fewer heads in every layer are not a smaller n_head: that would change the size of a head.
    fewer = read(**PRUNED).with_layers([LayerShape(2, 200)] * 3)
    assert (fewer.n_head, fewer.head_size, len(fewer.layers)) == (4, 16, 3)
    assert ModelConfig.from_dict(fewer.to_dict(), SOURCE) == fewer


def test_what_transformers_writes_of_its_layers_is_read() -> None:
    transformers = pytest.importorskip("transformers", minversion="5.20")
    fields = {**PRUNED, "n_inner": None, "per_layer_config": {"1": {"n_inner": 33}}}
    theirs = transformers.GPT2Config(**fields).to_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = ModelConfig.from_dict(theirs, SOURCE)
    assert [shape.n_inner for shape in ours.layers] == [256, 33, 256]
    again = transformers.GPT2Config(**ours.to_dict()).to_dict()
    assert ModelConfig.from_dict(again, SOURCE) == ours


@given(st.lists(st.builds(LayerShape, st.integers(1, 4), st.integers(1, 999)), max_size=5))
def test_layers_round_trip_in_one_form(shapes: list[LayerShape]) -> None:
    if not shapes:
        with pytest.raises(ConfigError, match="at least one layer"):
            read(**PRUNED).with_layers(shapes)
        return
    config = read(**PRUNED).with_layers(shapes)
    assert [config.layer_shape(i) for i in range(config.n_layer)] == shapes
    assert ModelConfig.from_dict(config.to_dict(), SOURCE) == config
    assert config.num_parameters == sum(map(math.prod, expected_shapes(config).values()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"per_layer_config": [5]}, r"per_layer_config = \[5\] must be an object"),
        ({"per_layer_config": {"3": {}}}, r"per_layer_config has the key '3'.*\"0\" to \"2\""),
        ({"per_layer_config": {"-1": {}}}, "per_layer_config has the key '-1'"),
        ({"per_layer_config": {"x": {}}}, "per_layer_config has the key 'x'"),
        ({"per_layer_config": {"9" * 5000: {}}}, "per_layer_config has the key"),
        ({"per_layer_config": {"1": {}, "01": {}}}, "per_layer_config has the key '01'"),
        ({"per_layer_config": {"1": 5}}, r"per_layer_config\[1\]: expected a JSON object, got 5"),
        ({"per_layer_config": {"1": {"n_head": 0}}}, r"per_layer_config\[1\]: n_head = 0 must"),
        ({"per_layer_config": {"1": {"n_head": 5}}}, r"n_head = 5 must be an integer from 1 to 4"),
        ({"per_layer_config": {"1": {"n_head": None}}}, r"\[1\]: n_head = None must"),
        ({"per_layer_config": {"1": {"n_head": True}}}, r"\[1\]: n_head = True must"),
        ({"per_layer_config": {"0": {"n_inner": 0}}}, r"\[0\]: n_inner = 0 must"),
        ({"per_layer_config": {"0": {"n_inner": "7"}}}, r"\[0\]: n_inner = '7' must"),
        (
            {"per_layer_config": {"0": {"n_inner": 10**9}}},
            "n_inner = 1000000000 make [0-9]+ parameters",
        ),
        ({"per_layer_config": {"0": {"n_embd": 8}}}, r"\[0\]: 'n_embd' cannot differ"),
        ({"per_layer_config": {"0": {"skip": ["mlp"]}}}, r"\[0\]: 'skip' cannot differ"),
        ({"head_dim": 17}, "head_dim = 17 does not agree with n_embd and n_head, which say 16"),
        ({"head_dim": "16"}, "head_dim = '16' does not agree"),
    ],
)
def test_ill_layers_are_refused_by_layer_and_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(GPT2FastError, match=f"^{SOURCE}: .*{message}"):
        read(**PRUNED, **fields)


def test_shapes_are_checked_where_a_configuration_is_made() -> None:
    with pytest.raises(ConfigError, match="1 layers of their own shapes for n_layer = 3"):
        replace(read(**PRUNED), layers=(LayerShape(1, 1),))
    for shape in (LayerShape(0, 5), LayerShape(5, 5), LayerShape(2, 0)):
        with pytest.raises(ConfigError, match="layer 1 cannot be LayerShape"):
            read(**PRUNED).with_layers([LayerShape(2, 5), shape])


_KEYS = st.sampled_from(
    [
        *(ModelConfig.__dataclass_fields__.keys() - {"layers"}),
        *("eos_token_id", "hidden_size", "n_ctx", "model_type", "head_dim", "per_layer_config"),
    ]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(_KEYS | st.text(max_size=5), _VALUES, max_size=4))
def test_any_json_object_gives_a_config_or_our_error(fields: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config = ModelConfig.from_dict(fields, SOURCE)
        except GPT2FastError:
            return
    assert ModelConfig.from_dict(config.to_dict(), SOURCE) == config
