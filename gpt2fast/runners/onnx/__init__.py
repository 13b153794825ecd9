"""onnxruntime on a graph that ``gpt2fast.export`` wrote."""

from gpt2fast.runners.onnx.cache import empty_cache
from gpt2fast.runners.onnx.runner import OnnxRunner
from gpt2fast.runners.onnx.session import Session

__all__ = ["OnnxRunner", "Session", "empty_cache"]
