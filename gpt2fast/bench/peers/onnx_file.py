"""A GPT-2 as ONNX files that onnxruntime runs well: optimum's export, then 8 or 4 bits."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

_BLOCK = 128  # weights that share a scale in 4 bits
_ACCURACY_LEVEL = 4  # activations in 8 bits, sums in integers
MODEL = "model.onnx"


def export(checkpoint: Path, path: Path) -> None:
    """Write the float32 graph with past keys and values as inputs to the directory ``path``."""
    exporter = import_module("optimum.exporters.onnx")
    path.mkdir()
    exporter.main_export(
        str(checkpoint),
        output=path,
        task="text-generation-with-past",
        library_name="transformers",
        do_validation=False,
        local_files_only=True,
    )
    _fold_head(path)


def quantize_int8(source: Path, path: Path) -> None:
    """Dynamic quantization: 8-bit matrices, a scale a column; activations as they come.

    Signed weights saturate in the 16-bit sums of CPUs without VNNI; unsigned ones do not.
    """
    quantization = import_module("onnxruntime.quantization")
    signed = _has_vnni()
    path.mkdir()
    quantization.quantize_dynamic(
        source / MODEL,
        path / MODEL,
        per_channel=True,
        weight_type=quantization.QuantType.QInt8 if signed else quantization.QuantType.QUInt8,
        use_external_data_format=True,
    )


def quantize_int4(source: Path, path: Path) -> None:
    """Every matrix, the head too, to 4 bits in blocks of 128: the fastest it can be.

    The 4-bit quantizer passes over Gemm, which is what Conv1D is exported as: each is rewritten to
    MatMul and Add before.
    """
    onnx = import_module("onnx")
    nbits = import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    model = onnx.load(source / MODEL)
    _split_gemms(onnx, model.graph)
    quantizer = nbits.MatMulNBitsQuantizer(
        model, block_size=_BLOCK, is_symmetric=True, accuracy_level=_ACCURACY_LEVEL
    )
    quantizer.process()
    path.mkdir()
    quantizer.model.save_model_to_file(str(path / MODEL), True)


def bytes_read(path: Path) -> int:
    """Bytes of the initializers that a decode step reads in full: all but tables of Gather."""
    onnx = import_module("onnx")
    graph = onnx.load(path / MODEL, load_external_data=False).graph
    used = {name for node in graph.node if node.op_type != "Gather" for name in node.input}
    total = 0
    for tensor in graph.initializer:
        if tensor.name in used:
            count = 1
            for size in tensor.dims:
                count *= size
            total += count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return total


def _fold_head(path: Path) -> None:
    """Store the tied head as (inputs, outputs) instead of transposing the embedding table.

    The quantizers see only products with an initializer: a head left as Transpose would stay in
    float32. onnxruntime folds the Transpose at load in any case, so that no memory is spent.
    """
    onnx = import_module("onnx")
    model = onnx.load(path / MODEL)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in tensors]:
        values = onnx.numpy_helper.to_array(tensors[node.input[0]])
        order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        folded = np.ascontiguousarray(values.transpose(order))
        graph.initializer.append(onnx.numpy_helper.from_array(folded, node.output[0]))
        graph.node.remove(node)
    for file in path.glob(f"{MODEL}*"):
        file.unlink()
    data = f"{MODEL}.data"
    onnx.save(model, path / MODEL, save_as_external_data=True, location=data)


def _split_gemms(onnx: Any, graph: Any) -> None:
    """Replace each Gemm(A, B, C) with default factors by MatMul(A, B) + C, in its place."""
    nodes = []
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        plain = all(attributes.get(name, 0) == 0 for name in ("transA", "transB")) and all(
            attributes.get(name, 1.0) == 1.0 for name in ("alpha", "beta")
        )
        if node.op_type != "Gemm" or not plain or len(node.input) != 3:
            nodes.append(node)
            continue
        product = f"{node.output[0]}_product"
        make = onnx.helper.make_node
        nodes.append(make("MatMul", list(node.input[:2]), [product], f"{node.name}_matmul"))
        nodes.append(make("Add", [product, node.input[2]], list(node.output), f"{node.name}_add"))
    del graph.node[:]
    graph.node.extend(nodes)


def _has_vnni() -> bool:
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
