"""The options of an engine: one frozen, validated record."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from gpt2fast.errors import OptionError, UnsupportedError


@dataclass(frozen=True)
class EngineOptions:
    """How a model is to be run; ``LLM`` describes each. Raises naming the option at fault."""

    device: str
    dtype: str
    quantization: str | None
    kv_cache_dtype: str
    num_threads: int | None
    max_batch_tokens: int
    max_seqs: int
    kv_cache_tokens: int | None
    prefix_caching: bool

    def __post_init__(self) -> None:
        for name in ("device", "dtype", "kv_cache_dtype"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise OptionError(f"{name} = {value!r} is not allowed; give a string")
        if self.quantization is not None:
            raise UnsupportedError(
                f"quantization = {self.quantization!r} is not available in this version; leave it "
                "None to run the weights in float32"
            )
        if self.kv_cache_dtype not in ("auto", "float32"):
            raise UnsupportedError(
                f"kv_cache_dtype = {self.kv_cache_dtype!r} is not available in this version; use "
                "'auto' or 'float32'"
            )
        if not isinstance(self.prefix_caching, bool):
            raise OptionError(
                f"prefix_caching = {self.prefix_caching!r} is not allowed; give True or False"
            )
        for name in ("max_batch_tokens", "max_seqs"):
            _check_count(name, getattr(self, name))
        for name in ("num_threads", "kv_cache_tokens"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))


def _check_count(name: str, value: object) -> None:
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or not 1 <= int(value) < 2**31:  # type: ignore[call-overload]
        raise OptionError(f"{name} = {value!r} is not allowed; give an integer of at least 1")
