"""What the matrices of a model are stored as, and their integers."""

from gpt2fast.quantization.scheme import (
    DEFAULT_GROUP,
    EMBEDDING,
    FLOAT_FORMATS,
    GPU_FORMATS,
    GROUP_SIZES,
    HEAD,
    INTEGER_FORMATS,
    INTEGER_RANGES,
    METHOD,
    MatrixFormat,
    Quantization,
    agree,
)

__all__ = [
    "DEFAULT_GROUP",
    "EMBEDDING",
    "FLOAT_FORMATS",
    "GPU_FORMATS",
    "GROUP_SIZES",
    "HEAD",
    "INTEGER_FORMATS",
    "INTEGER_RANGES",
    "METHOD",
    "MatrixFormat",
    "Quantization",
    "agree",
]
