"""ONNX: a graph that is written, not traced, in the operators that onnxruntime has for decoders."""

from gpt2fast.export.run import PRECISIONS, ExportOptions, export

__all__ = ["PRECISIONS", "ExportOptions", "export"]
