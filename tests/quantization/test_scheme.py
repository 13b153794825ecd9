"""Schemes of formats: names, mixtures, and what config.json says of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2fast.config import ModelConfig
from gpt2fast.errors import OptionError
from gpt2fast.quantization import GROUP_SIZES, MatrixFormat, Quantization, agree
from gpt2fast.quantization.panel_layout import bytes_by_format, matrix_layouts

INT8, INT4, INT3 = (MatrixFormat(name, 64) for name in ("int8", "int4", "int3"))
FLOATS = (MatrixFormat("float32"), MatrixFormat("bfloat16"))
PARTS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
CONFIG = ModelConfig.from_dict(
    {"model_type": "gpt2", "vocab_size": 96, "n_positions": 64, "n_embd": 48, "n_layer": 2,
     "n_head": 3},
    "config.json",
)  # fmt: skip

integer_formats = st.builds(
    MatrixFormat, st.sampled_from(["int8", "int4", "int3"]), st.sampled_from(GROUP_SIZES)
)
matrices = st.one_of(
    st.sampled_from(["wte.weight", "lm_head.weight"]),
    st.builds(lambda i, part: f"h.{i}.{part}.weight", st.integers(0, 99), st.sampled_from(PARTS)),
)
schemes = st.builds(
    lambda blocks, head, overrides: Quantization(blocks, head, tuple(overrides.items())),
    integer_formats,
    integer_formats,
    st.dictionaries(matrices, integer_formats | st.sampled_from(FLOATS), max_size=9),
)


@pytest.mark.parametrize("name", ["int3", "int3-g32", "int3-g64", "int3-g128", "int4", "int8-g32"])
def test_names(name: str) -> None:
    scheme = Quantization.parse(name)
    assert Quantization.parse(scheme.name) == scheme
    assert scheme.blocks.label == (name if "-" in name else f"{name}-g64")
    assert scheme.head == (scheme.blocks if scheme.blocks.name == "int8" else INT8)
    assert not scheme.is_mixed


@pytest.mark.parametrize("name", ["int2", "int3-g16", "int3-g", "int33", "mixed", "INT3", 3, None])
def test_names_that_are_not_known(name: object) -> None:
    with pytest.raises(OptionError, match="is not known; use 'int8', 'int4', 'int3'"):
        Quantization.parse(name)


@settings(max_examples=200, deadline=None)
@given(schemes)
def test_config_json_has_all_of_it(scheme: Quantization) -> None:
    fields = json.loads(json.dumps(scheme.to_config()))
    again = Quantization.from_config(fields, "config.json")
    assert again == scheme
    assert again.to_config() == scheme.to_config()
    for name, form in scheme.overrides:
        assert again.format_of(name) == form


def test_one_form_of_each_scheme() -> None:
    fc, proj, plain = (f"h.0.{part}.weight" for part in ("mlp.c_fc", "attn.c_proj", "mlp.c_proj"))
    scheme = Quantization(INT4, INT8, ((fc, INT3), ("wte.weight", INT8), (proj, INT8)))
    assert scheme.overrides == ((proj, INT8), (fc, INT3))
    assert scheme == Quantization(INT4, INT8, ((proj, INT8), (fc, INT3), (plain, INT4)))
    assert scheme.format_of(fc) == INT3
    assert scheme.format_of(plain) == INT4
    assert scheme.format_of("wte.weight") == INT8
    assert Quantization(INT4, INT8, ((fc, INT4),)) == Quantization.parse("int4")


def test_names_of_mixtures() -> None:
    scheme = Quantization(INT4, INT8, (("h.0.mlp.c_fc.weight", FLOATS[1]),))
    assert scheme.name == "mixed (int4-g64, int8-g64, bfloat16)"
    assert Quantization(INT4, INT4).name == "mixed (int4-g64)"
    for wanted in ("int4", "int4-g64", "int8"):
        with pytest.raises(OptionError, match=r"model is stored in mixed \(int4-g64, int8-g64, b"):
            agree(wanted, scheme, "model")
    assert agree(None, scheme, "model") == scheme


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ((("wpe.weight", INT8),), "'wpe.weight' is no matrix"),
        ((("h.0.mlp.c_fc", INT8),), "is no matrix"),
        ((("h.0.mlp.c_fc.weight", MatrixFormat("fp8", 64)),), "in fp8-g64 is not known"),
        ((("h.0.mlp.c_fc.weight", MatrixFormat("int4", 48)),), "in int4-g48 is not known"),
        ((("h.0.mlp.c_fc.weight", MatrixFormat("bfloat16", 64)),), "in bfloat16-g64 is not"),
        ((("wte.weight", INT3), ("wte.weight", INT4)), "twice"),
    ],
)
def test_overrides_that_are_refused(
    overrides: tuple[tuple[str, MatrixFormat], ...], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        Quantization(INT8, INT8, overrides)


def test_layouts_follow_the_overrides() -> None:
    own = {"h.0.mlp.c_fc.weight": FLOATS[0], "h.1.attn.c_attn.weight": INT4, "wte.weight": INT3}
    scheme = Quantization(INT3, INT8, tuple(own.items()))
    layouts = matrix_layouts(CONFIG, "float32", scheme)
    assert {name: layout.format for name, layout in layouts.items() if name in own} == own
    assert {layout.format for name, layout in layouts.items() if name not in own} == {INT3}
    # 48 inputs are padded to 64; a unit of 32 inputs and 16 outputs takes three lines of 64 bytes.
    assert layouts["wte.weight"].shape == (6, 64 + 2 * 192)
    assert bytes_by_format(layouts, CONFIG).keys() == {"float32", "int4-g64", "int3-g64"}
    for name in ("h.2.mlp.c_fc.weight", "lm_head.weight"):
        strange = Quantization(INT8, INT8, ((name, INT3),))
        with pytest.raises(OptionError, match=f"the model has no matrix {name}"):
            matrix_layouts(CONFIG, "float32", strange)
