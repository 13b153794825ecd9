"""Quantized checkpoints that are damaged, foreign or hostile: one CheckpointError that says why."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from gpt2fast import LLM
from gpt2fast.errors import CheckpointError, GPT2FastError, UnsupportedError
from gpt2fast.quantization import Quantization
from support.model_grid import BASE

MakeCheckpoint = Callable[..., tuple[Path, Any]]
Tensors = dict[str, np.ndarray[Any, Any]]

MATRIX = "h.1.mlp.c_fc.weight"
METADATA = {"gpt2fast_layout": "1", "gpt2fast_formats": "blocks int8-g64, head int8-g64"}
INT3 = {"format": "int3", "group_size": 64}
SCHEME = Quantization.parse("int8").to_config()


@pytest.fixture(scope="module")
def saved(make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("saved") / "out"
    with LLM(make_checkpoint(**BASE)[0], quantization="int8") as llm:
        llm.save_quantized(out)
    return out


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def change(path: Path, edit: Callable[[Tensors], object], metadata: Any = METADATA) -> None:
    file = path / "model.safetensors"
    tensors = {name: array.copy() for name, array in load_file(file).items()}
    edit(tensors)
    save_file(tensors, file, metadata=metadata)


def set_scale(tensors: Tensors, bits: int, output: int = 37, group: int = 0) -> None:
    at = (group * 16 + output % 16) * 2
    tensors[MATRIX][output // 16, at : at + 2] = np.array([bits], "<u2").view(np.uint8)


@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F81])
def test_scales_that_are_not_numbers(copy: Path, bits: int, device: str) -> None:
    if device == "torch":
        pytest.importorskip("torch")
    change(copy, lambda tensors: set_scale(tensors, bits))
    with pytest.raises(CheckpointError, match=rf"{copy}.*{MATRIX}"):
        LLM(copy, device=device)


@pytest.mark.parametrize("bits", [0, 0x8000, 0x0001, 0x3F80])
def test_scales_that_are_numbers(copy: Path, bits: int) -> None:
    change(copy, lambda tensors: set_scale(tensors, bits))
    with LLM(copy) as llm:
        assert np.isfinite(llm.logits([1, 2, 3])).all()


def test_a_large_scale_is_a_number(copy: Path) -> None:
    # The largest bfloat16. What overflows is no longer hidden by the time a token is chosen.
    change(copy, lambda tensors: set_scale(tensors, 0x7F7F))
    LLM(copy).close()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["ln_f.weight", "wpe.weight", "h.0.attn.c_attn.bias"])
def test_vectors_that_are_not_finite(copy: Path, name: str, value: float) -> None:
    change(copy, lambda tensors: tensors[name].reshape(-1).__setitem__(3, value))
    with pytest.raises(CheckpointError, match=rf"{copy}.*{name}.*NaN or infinite"):
        LLM(copy)


def drop(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def put(name: str, make: Callable[[Any], Any]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: make(tensors.get(name))})


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (drop(MATRIX), rf"missing \(1\): {MATRIX}"),
        (drop("ln_f.bias"), r"missing \(1\): ln_f.bias"),
        (drop("wte.weight"), r"missing \(1\): wte.weight"),
        (put("lm_head.weight", lambda _: np.zeros((4, 64), np.uint8)), r"unexpected.*lm_head"),
        (put(MATRIX, lambda a: a[:-1]), rf"wrong shape.*{MATRIX} is \[11, .*the config says \[12,"),
        (put(MATRIX, lambda a: a[:, :-64]), rf"wrong shape \(1\): {MATRIX}"),
        (put(MATRIX, lambda a: a.reshape(-1)), rf"wrong shape \(1\): {MATRIX}"),
        (put(MATRIX, lambda a: a.view(np.int8)), rf"{MATRIX}' is I8; only U8"),
        (put(MATRIX, lambda a: a.astype(np.float32)), rf"{MATRIX}' is F32; only U8"),
        (put(MATRIX, lambda _: np.zeros((48, 192), np.float32)), rf"wrong shape.*{MATRIX}"),
        (put("ln_f.bias", lambda a: a.astype(np.uint8)), r"ln_f.bias' is U8; only F32"),
    ],
)
def test_tensors_that_do_not_fit(copy: Path, edit: Callable[[Tensors], object], says: str) -> None:
    change(copy, edit)
    with pytest.raises(CheckpointError, match=rf"{copy}.*{says}"):
        LLM(copy)


@pytest.mark.parametrize(
    "metadata", [None, {}, {"format": "pt"}, {**METADATA, "gpt2fast_layout": "2"}]
)
def test_another_layout(copy: Path, metadata: Any) -> None:
    change(copy, lambda tensors: None, metadata)
    says = r"model\.safetensors: the metadata has .*gpt2fast_layout.*quantize the float"
    with pytest.raises(CheckpointError, match=says):
        LLM(copy)


def test_metadata_that_is_null(copy: Path) -> None:
    # The library of the format takes it for none at all.
    file = copy / "model.safetensors"
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = None
    text = json.dumps(header).encode()
    file.unlink()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    with pytest.raises(CheckpointError, match="the metadata has no gpt2fast_layout"):
        LLM(copy)


@pytest.mark.parametrize(
    ("scheme", "error", "says"),
    [
        ({"quant_method": "gptq", "bits": 4}, UnsupportedError, "method 'gptq' is not supported"),
        ("int8", UnsupportedError, "method 'int8' is not supported"),
        ({**SCHEME, "group_size": 48}, CheckpointError, "group_size = 48"),
        ({**SCHEME, "group_size": 64.0}, CheckpointError, r"group_size = 64\.0"),
        ({**SCHEME, "head_group_size": None}, CheckpointError, "head_group_size = None"),
        ({**SCHEME, "format": "int2"}, CheckpointError, "format = 'int2'"),
        ({**SCHEME, "format": "float32", "group_size": 0}, CheckpointError, "'float32'"),
        ({**SCHEME, "format": ["int8"]}, CheckpointError, "format = "),
        ({**SCHEME, "zero_point": True}, CheckpointError, "unknown fields: 'zero_point'"),
        ({**SCHEME, "overrides": []}, CheckpointError, r"overrides = \[\]"),
        ({**SCHEME, "overrides": {"wpe.weight": INT3}}, CheckpointError, "'wpe.weight'.*no matrix"),
        ({**SCHEME, "overrides": {"h.01.mlp.c_fc.weight": INT3}}, CheckpointError, "no matrix"),
        ({**SCHEME, "overrides": {"h.9.mlp.c_fc.weight": INT3}}, CheckpointError, "the model has"),
        ({**SCHEME, "overrides": {"lm_head.weight": INT3}}, CheckpointError, "the model has no"),
        ({**SCHEME, "overrides": {MATRIX: "int3"}}, CheckpointError, f"{MATRIX} is 'int3'"),
        (
            {**SCHEME, "overrides": {MATRIX: {"format": "int3"}}},
            CheckpointError,
            "group_size = None",
        ),
        (
            {**SCHEME, "overrides": {MATRIX: {"format": "bfloat16", "group_size": 64}}},
            CheckpointError,
            f"{MATRIX}.*group_size = 64",
        ),
        (
            {**SCHEME, "overrides": {MATRIX: {**INT3, "bits": 3}}},
            CheckpointError,
            f"{MATRIX}.*unknown fields: 'bits'",
        ),
        (
            {**SCHEME, "overrides": {MATRIX: INT3}},
            CheckpointError,
            f"config.json says 'blocks int8-g64, head int8-g64, {MATRIX} int3-g64'",
        ),
        # These are known, but not what was written; panels of 48 inputs even have the same size.
        ({**SCHEME, "format": "int4"}, CheckpointError, "config.json says 'blocks int4-g64"),
        (
            {**SCHEME, "head_group_size": 32},
            CheckpointError,
            "'blocks int8-g64, head int8-g32'",
        ),
        # A checkpoint of floats, by its configuration.
        (None, CheckpointError, "wrong shape"),
    ],
)
def test_schemes(copy: Path, scheme: Any, error: type[Exception], says: str) -> None:
    file = copy / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": scheme}))
    with pytest.raises(error, match=rf"{copy}.*{says}"):
        LLM(copy)


def test_floats_that_are_called_integers(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = Path(shutil.copytree(make_checkpoint(**BASE)[0], tmp_path / "copy"))
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": SCHEME}))
    with pytest.raises(CheckpointError, match="the metadata has no gpt2fast_layout"):
        LLM(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda floats: floats, None),
        (lambda floats: floats.astype(np.float16), "is F16; only F32 can be read here"),
        (lambda floats: floats.view(np.uint8), r"wrong shape.*h.1.mlp.c_fc"),
        (lambda floats: floats * np.float32(np.nan), "NaN(,| or) infinite"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "torch"])
def test_floats_among_integers(
    copy: Path, make: Callable[[Any], Any], says: str | None, device: str
) -> None:
    if device == "torch":
        pytest.importorskip("torch")
    floats = np.random.default_rng(0).normal(size=(48, 192)).astype(np.float32)
    formats = f"{METADATA['gpt2fast_formats']}, {MATRIX} float32"
    change(copy, put(MATRIX, lambda _: make(floats)), {**METADATA, "gpt2fast_formats": formats})
    file = copy / "config.json"
    own = {**SCHEME, "overrides": {MATRIX: {"format": "float32", "group_size": 0}}}
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": own}))
    expected = pytest.raises(CheckpointError, match=rf"{copy}.*{says}") if says else nullcontext()
    with expected, LLM(copy, device=device) as llm:
        assert np.isfinite(llm.logits([1, 2, 3])).all()


@pytest.mark.filterwarnings("ignore:.*unknown fields")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_is_an_error_or_a_model(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    copy = Path(shutil.copytree(saved, tmp_path_factory.mktemp("fuzz") / "copy"))
    file = copy / data.draw(st.sampled_from(["model.safetensors", "config.json"]))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        # The header is where the damage is understood; the rest is numbers.
        at = data.draw(st.integers(0, min(len(content), 3000) - 1))
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    file.write_bytes(content)
    with contextlib.suppress(GPT2FastError), LLM(copy) as llm:
        llm.logits([1, 2, 3])
    shutil.rmtree(copy)
