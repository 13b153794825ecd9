"""What a model is stored as where it runs: one answer, from what is asked for and what it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpt2fast.checkpoint.exported import Export
from gpt2fast.errors import GPT2FastError, OptionError, UnsupportedError
from gpt2fast.quantization import Quantization
from gpt2fast.runners import FormatOptions, ModelFormat, resolve_format

INT8, INT4 = Quantization.parse("int8"), Quantization.parse("int4-g32")


def stored(scheme: Quantization | None = None) -> Any:
    return SimpleNamespace(quantization=scheme, path=Path("model"))


@pytest.mark.parametrize(
    ("scheme", "options", "device", "want"),
    [
        (None, {}, "auto", ModelFormat("cpu", "float32", None, "float32")),
        (None, {"dtype": "bfloat16"}, "cpu", ModelFormat("cpu", "bfloat16", None, "bfloat16")),
        (None, {"kv_cache_dtype": "int8"}, "cpu", ModelFormat("cpu", "float32", None, "int8")),
        (None, {"quantization": "int8"}, "cpu", ModelFormat("cpu", "float32", INT8, "bfloat16")),
        (INT4, {}, "cpu", ModelFormat("cpu", "float32", INT4, "bfloat16")),
        (INT4, {"quantization": "int4"}, "cpu", ModelFormat("cpu", "float32", INT4, "bfloat16")),
        (INT4, {"quantization": INT4}, "cpu", ModelFormat("cpu", "float32", INT4, "bfloat16")),
        (None, {}, "cuda:1", ModelFormat("cuda:1", "float16", None, "float16")),
        (INT4, {"dtype": "float32"}, "cuda", ModelFormat("cuda", "float32", INT4, "float32")),
        (INT4, {}, "torch", ModelFormat("torch", "float32", INT4, "float32")),
        (None, {"dtype": "float16"}, "torch", ModelFormat("torch", "float16", None, "float16")),
    ],
)
def test_one_answer(
    scheme: Quantization | None, options: dict[str, Any], device: str, want: ModelFormat
) -> None:
    assert resolve_format(stored(scheme), FormatOptions(**options), device) == want


@pytest.mark.parametrize(
    ("scheme", "options", "device", "error", "says"),
    [
        (INT4, {"quantization": "int8"}, "cpu", OptionError, "'int8', but model is stored in int4"),
        (INT4, {"quantization": INT8}, "cpu", OptionError, "'int8-g64', but model is stored in"),
        (INT4, {"dtype": "float32"}, "cpu", OptionError, "leave dtype at 'auto'"),
        (None, {"dtype": "float16"}, "cpu", UnsupportedError, "not available on the cpu runner"),
        (None, {"dtype": "float8"}, "torch", OptionError, "dtype = 'float8' is not known"),
        (None, {"dtype": "float8"}, "cuda", OptionError, "dtype = 'float8' is not known"),
        (None, {"quantization": "int8"}, "torch", UnsupportedError, "use 'cpu' or 'cuda'"),
        (None, {"kv_cache_dtype": "int8"}, "cuda", UnsupportedError, "not available with device"),
        (None, {}, "abacus", OptionError, "device = 'abacus' is not known"),
    ],
)
def test_what_is_refused(
    scheme: Quantization | None,
    options: dict[str, Any],
    device: str,
    error: type[GPT2FastError],
    says: str,
) -> None:
    with pytest.raises(error, match=says):
        resolve_format(stored(scheme), FormatOptions(**options), device)


def test_an_export_is_what_it_is() -> None:
    export = Export(Path("out"), config=None)  # type: ignore[arg-type]
    assert resolve_format(export).device == "cpu"
    assert resolve_format(export, device="cuda:1").device == "cuda:1"
    for options in ({"dtype": "float32"}, {"quantization": "int8"}, {"kv_cache_dtype": "int8"}):
        with pytest.raises(OptionError, match="out is an ONNX export, which is what it is"):
            resolve_format(export, FormatOptions(**options))
