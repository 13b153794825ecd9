"""What weights and KV cache are stored as where a model runs: decided here, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpt2fast.checkpoint.exported import Export
from gpt2fast.errors import OptionError, UnsupportedError
from gpt2fast.quantization import Quantization, agree
from gpt2fast.runners.options import FormatOptions

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint

_DEVICES = (
    "'auto', 'cpu', 'cuda', 'cuda:<index>', 'torch' or 'torch:<device>' (such as 'torch:mps')"
)
_CPU_DTYPES = ("float32", "bfloat16")
_GPU_DTYPES = ("float16", "bfloat16", "float32")  # of the cuda and the torch runner


@dataclass(frozen=True)
class ModelFormat:
    """The formats of one model on one device, as ``resolve_format`` decides them."""

    device: str  # "cpu", "cuda[:index]" or "torch[:device]"
    dtype: str  # of matrices that are not quantized; off the CPU runner, of activations, too
    quantization: Quantization | None  # of the matrices; None where they are floats
    kv_cache_dtype: str  # of keys and values


def resolve_format(
    model: Checkpoint | Export, options: FormatOptions | None = None, device: str = "auto"
) -> ModelFormat:
    """The formats of ``model`` on ``device``: "auto" and "cpu" are the C++ runner, "cuda[:index]"
    Triton's, "torch[:device]" PyTorch's; an export runs in onnxruntime, on the CPU or
    "cuda[:index]", as it is stored.

    A checkpoint that is stored quantized keeps its integers; on torch it runs with the values that
    they stand for.

    Raises OptionError for a device or dtype that is not known, and for options that differ from
    what the model is stored in; UnsupportedError for a format that the runner does not have.
    """
    options = options or FormatOptions()
    if isinstance(model, Export):
        reject_fixed_options(model, options)
        return ModelFormat("cpu" if device == "auto" else device, "float32", None, "float32")
    scheme = agree(options.quantization, model.quantization, model.path)
    if device in ("auto", "cpu"):
        dtype = _cpu_dtype(model, options.dtype)
        return ModelFormat("cpu", dtype, scheme, _cpu_cache(options.kv_cache_dtype, dtype, scheme))
    kind = device.partition(":")[0]
    if kind not in ("cuda", "torch"):
        raise OptionError(f"device = {device!r} is not known; use {_DEVICES}")
    if options.kv_cache_dtype != "auto":
        raise UnsupportedError(
            f"kv_cache_dtype = {options.kv_cache_dtype!r} is not available with device = "
            f"{device!r}, where the cache has the dtype of the weights; use 'auto' or the cpu "
            "runner"
        )
    if kind == "torch" and scheme != model.quantization:
        assert scheme is not None
        raise UnsupportedError(
            f"quantization = {scheme.name!r} is not available with device = {device!r}; "
            "use 'cpu' or 'cuda'"
        )
    dtype = options.dtype
    if dtype == "auto":
        dtype = "float16" if kind == "cuda" else "float32"
    if dtype not in _GPU_DTYPES:
        raise OptionError(f"dtype = {dtype!r} is not known; use one of {', '.join(_GPU_DTYPES)}")
    return ModelFormat(device, dtype, scheme, dtype)


def reject_fixed_options(export: Export, options: FormatOptions) -> None:
    """Raises OptionError for an option that an export leaves no choice of."""
    scheme = agree(options.quantization, None, export.path)
    given = {
        "dtype": options.dtype,
        "quantization": None if scheme is None else scheme.name,
        "kv_cache_dtype": options.kv_cache_dtype,
    }
    for option, value in given.items():
        if value not in (None, "auto"):
            raise OptionError(
                f"{option} = {value!r}, but {export.path} is an ONNX export, which is what it is; "
                "leave it out, or export the checkpoint in another precision"
            )


def _cpu_dtype(checkpoint: Checkpoint, dtype: str) -> str:
    """What the CPU runner keeps float weights in."""
    if checkpoint.quantization is not None and dtype != "auto":
        raise OptionError(
            f"dtype = {dtype!r}, but {checkpoint.path} is stored in "
            f"{checkpoint.quantization.name}; leave dtype at 'auto'"
        )
    if dtype == "auto":
        return "float32"
    if dtype not in _CPU_DTYPES:
        raise UnsupportedError(
            f"dtype = {dtype!r} is not available on the cpu runner; use 'auto', 'float32' or "
            "'bfloat16'"
        )
    return dtype


def _cpu_cache(wanted: str, dtype: str, quantization: Quantization | None) -> str:
    """What the CPU runner keeps keys and values in. "auto" does not round them where the weights
    are float32, and halves their bytes where the weights are smaller."""
    if wanted != "auto":
        return wanted
    return "float32" if dtype == "float32" and quantization is None else "bfloat16"
