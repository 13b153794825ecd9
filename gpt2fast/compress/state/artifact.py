"""A compressed model as a Hugging Face directory: what every runner and the exporter load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpt2fast.checkpoint.checkpoint import QUANTIZATION_FIELD
from gpt2fast.checkpoint.names import stored_name
from gpt2fast.checkpoint.packed import panel_metadata
from gpt2fast.checkpoint.safetensors_writer import NewTensor
from gpt2fast.checkpoint.save import save_checkpoint
from gpt2fast.checkpoint.tensor import PACKED
from gpt2fast.compress.state.model import Model, QuantizedMatrix
from gpt2fast.config import ModelConfig
from gpt2fast.files.json_file import read_json_object
from gpt2fast.quantization import EMBEDDING, HEAD, MatrixFormat, Quantization
from gpt2fast.quantization import matrix as matrices
from gpt2fast.quantization.panel_layout import PanelLayout, matrix_layouts
from gpt2fast.quantization.panels import encode

_FLOAT = MatrixFormat("float32")
_TORCH_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LARGEST_FLOAT16 = 65504.0

Make = Callable[[Model, str], NDArray[Any]]  # of the tensor of a name
# Shapes and types of the original, which need not be those of what is written.
_STALE = ("per_layer_config", "head_dim", "torch_dtype", "dtype", QUANTIZATION_FIELD)


def quantization_of(model: Model) -> Quantization | None:
    """The scheme that stores each matrix as it is: the formats that most of the blocks and the
    embedding have, and what differs from them. None where nothing is quantized."""
    if not model.matrices:
        return None
    formats = {name: _format_of(model, name) for name in model.matrix_names()}
    head = formats[EMBEDDING]
    inner = Counter(form for name, form in formats.items() if name not in (EMBEDDING, HEAD))
    # The scheme's own formats are integers; a float matrix is always named.
    integers = [form for form, _ in inner.most_common() if form.is_integer]
    blocks = integers[0] if integers else _first_integer(formats)
    head = head if head.is_integer else blocks
    return Quantization(blocks, head, tuple(formats.items()))


def save_model(model: Model, out: Path) -> None:
    """Write ``out``, which must be new or empty: quantized matrices in panels, the rest in float32.
    Where nothing is quantized, floats are of the original's type, and if all layers have one shape
    transformers loads it.

    Raises OptionError where ``out`` cannot be written or the disk is full.
    """
    scheme = quantization_of(model)
    fields = _fields(model)
    if scheme is None:
        fields["torch_dtype"] = _TORCH_DTYPES[_float_type(model)]
        save_checkpoint(out, model.source, fields, _plain_tensors(model), {})
        return
    fields[QUANTIZATION_FIELD] = scheme.to_config()
    layouts = matrix_layouts(model.config, "float32", scheme)
    tensors = [_tensor(model, name, layouts.get(name)) for name in model.network.state_dict()]
    save_checkpoint(out, model.source, fields, tensors, panel_metadata(scheme))


def _fields(model: Model) -> dict[str, Any]:
    """config.json: the original's fields, under those of the network as it is now."""
    config = model.config
    source = model.source / "config.json"
    kept = read_json_object(source) if source.is_file() else {}
    aliases = ("max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads")
    kept = {k: v for k, v in kept.items() if k not in (*_STALE, *aliases)}
    return {**kept, **config.to_dict(), "torch_dtype": "float32", **_end_of_text(kept, config)}


def _end_of_text(kept: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """generation_config.json may say another one, and config.json keeps what it said."""
    return {name: kept[name] for name in ("eos_token_id",) if name in kept}


def _format_of(model: Model, name: str) -> MatrixFormat:
    matrix = model.matrices.get(name)
    return _FLOAT if matrix is None else matrix.format


def _first_integer(formats: dict[str, MatrixFormat]) -> MatrixFormat:
    return next(form for form in formats.values() if form.is_integer)


def _float_type(model: Model) -> str:
    """That of the original, unless a pass has made numbers that float16 does not hold."""
    largest = max(float(value.abs().max()) for value in model.network.state_dict().values())
    return "F32" if model.stored == "F16" and largest > _LARGEST_FLOAT16 else model.stored


def _plain_tensors(model: Model) -> list[NewTensor]:
    kind = _float_type(model)
    makers: dict[str, Make] = {"F32": _values, "F16": _float16, "BF16": _bfloat16}
    return [
        NewTensor(
            stored_name(name),
            kind,
            tuple(value.shape),
            partial(makers[kind], model, name),
        )
        for name, value in model.network.state_dict().items()
    ]


def _tensor(model: Model, name: str, layout: PanelLayout | None) -> NewTensor:
    matrix = model.matrices.get(name)
    if matrix is None or layout is None:
        shape = tuple(model.network.state_dict()[name].shape)
        return NewTensor(name, "F32", shape, partial(_values, model, name))
    return NewTensor(name, PACKED, layout.shape, partial(_panels, matrix))


def _values(model: Model, name: str) -> NDArray[np.float32]:
    values: NDArray[np.float32] = model.network.state_dict()[name].float().cpu().numpy()
    return values


def _float16(model: Model, name: str) -> NDArray[np.float16]:
    return _values(model, name).astype(np.float16)


def _bfloat16(model: Model, name: str) -> NDArray[np.uint16]:
    """The bits: numpy has no such type."""
    bits = model.network.state_dict()[name].bfloat16().cpu().contiguous().view(torch.int16)
    values: NDArray[np.uint16] = bits.numpy().view(np.uint16)
    return values


def _panels(matrix: QuantizedMatrix) -> NDArray[np.uint8]:
    arrays = matrix.integers.cpu().numpy(), matrix.scales.cpu().numpy()
    return encode(matrices.QuantizedMatrix(*arrays, matrix.format))
