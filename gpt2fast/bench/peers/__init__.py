"""The systems that ``gpt2fast bench`` can compare: names, formats, and what to install for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpt2fast.bench.peers.base import Adapter
from gpt2fast.errors import MissingDependencyError, OptionError, show


@dataclass(frozen=True)
class System:
    """An entry of the registry: what is known of a system before it is imported."""

    module: str  # in this package
    adapter: str  # the class in it
    formats: tuple[str, ...]  # the widest first
    imports: tuple[str, ...]  # modules without which it cannot run
    install: str  # pip's arguments
    variant: str | None = None  # the adapter's argument of this name, where it serves several


_TORCH = "torch transformers"
_SYSTEMS = {
    "gpt2fast": System(
        "native",
        "Native",
        ("float32", "bfloat16", "int8", "int4", "int3", "stored"),
        ("gpt2fast",),
        "gpt2fast",
    ),
    "gpt2fast-onnx": System(
        "native_onnx",
        "NativeOnnx",
        ("float32", "int8", "int4", "stored"),
        ("onnxruntime", "onnx_ir"),
        "'gpt2fast[onnx]'",
    ),
    **{
        f"transformers-{variant}": System(
            "transformers",
            "Transformers",
            ("float32", "bfloat16"),
            ("torch", "transformers"),
            _TORCH,
            variant,
        )
        for variant in ("eager", "sdpa", "compile")
    },
    "onnxruntime": System(
        "onnxruntime",
        "OnnxRuntime",
        ("float32", "int8", "int4"),
        ("onnxruntime", "onnx", "torch", "transformers", "optimum.onnxruntime", "onnx_ir"),
        f"onnxruntime onnx onnx-ir optimum-onnx {_TORCH}",
    ),
    "ctranslate2": System(
        "ctranslate2",
        "CTranslate2",
        ("float32", "int8"),
        ("ctranslate2", "torch", "transformers"),
        f"ctranslate2 {_TORCH}",
    ),
    "openvino": System(
        "openvino",
        "OpenVino",
        ("float32", "int8", "int4"),
        ("openvino", "nncf", "torch", "transformers", "optimum.intel"),
        f"openvino nncf optimum-intel {_TORCH}",
    ),
    **{
        name: System(
            "llama_cpp",
            "LlamaCpp",
            ("float32", "float16", "bfloat16", "int8", "int4"),
            ("llama_cpp", "gguf"),
            "llama-cpp-python gguf",
            variant,
        )
        for name, variant in (("llama_cpp", "plain"), ("llama_cpp-flash", "flash"))
    },
}


def names() -> tuple[str, ...]:
    """All systems, gpt2fast first."""
    return tuple(_SYSTEMS)


def formats(name: str) -> tuple[str, ...]:
    """The formats of a system, the widest first. Raises ``OptionError`` for an unknown name."""
    return _system(name).formats


def missing(name: str) -> str | None:
    """None where ``name`` is installed; otherwise a line that says what to install."""
    system = _system(name)
    if all(_exists(module) for module in system.imports):
        return None
    return f"{name}: not installed; pip install {system.install}"


def make_adapter(name: str, work: Path) -> Adapter:
    """The adapter of a system, with its libraries imported; converted models go under ``work``.

    Raises ``OptionError`` for an unknown name, ``MissingDependencyError`` with pip's command.
    """
    system = _system(name)
    if reason := missing(name):
        raise MissingDependencyError(reason)
    kind: Any = getattr(import_module(f"{__name__}.{system.module}"), system.adapter)
    if system.variant is not None:
        kind = partial(kind, variant=system.variant)
    try:
        adapter: Adapter = kind(work)
    except ImportError as error:
        raise MissingDependencyError(
            f"{name}: cannot be imported ({error}); pip install {system.install}"
        ) from error
    return adapter


def _system(name: str) -> System:
    if name not in _SYSTEMS:
        raise OptionError(f"system {show(name)} is unknown; choose from {', '.join(_SYSTEMS)}")
    return _SYSTEMS[name]


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # a parent package that is not there, or that fails on import
        return False
