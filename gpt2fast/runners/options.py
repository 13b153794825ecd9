"""The options of an engine and of the formats in it: frozen, validated records."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Integral

from gpt2fast.errors import OptionError, show
from gpt2fast.host import num_cpus
from gpt2fast.quantization import Quantization

# A step of 65,536 tokens is beyond any gain; its buffers would take gigabytes.
_MOST = {
    "max_batch_tokens": 2**16,
    "max_seqs": 2**16,
    "num_threads": 1024,
    "kv_cache_tokens": 2**31 - 1,
}
KV_CACHE_DTYPES = ("auto", "float32", "bfloat16", "int8")
_OPTIONAL = ("num_threads", "kv_cache_tokens")


@dataclass(frozen=True)
class FormatOptions:
    """What is asked of weights and cache, by the names of ``LLM``, which describes each;
    ``resolve_format`` says what a model gets.

    Raises OptionError for a format that no runner has, and for two formats of the weights at once.
    """

    dtype: str = "auto"
    quantization: str | Quantization | None = None
    kv_cache_dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.quantization is not None:
            if not isinstance(self.quantization, Quantization):
                Quantization.parse(self.quantization)
            if self.dtype != "auto":
                named = getattr(self.quantization, "name", self.quantization)
                raise OptionError(
                    f"dtype = {self.dtype!r} and quantization = {named!r} exclude each "
                    "other; leave dtype at 'auto'"
                )
        if self.kv_cache_dtype not in KV_CACHE_DTYPES:
            raise OptionError(
                f"kv_cache_dtype = {self.kv_cache_dtype!r} is not known; use one of "
                f"{', '.join(map(repr, KV_CACHE_DTYPES))}"
            )


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
        self.formats  # noqa: B018 - checks them
        if not isinstance(self.prefix_caching, bool):
            raise OptionError(
                f"prefix_caching = {self.prefix_caching!r} is not allowed; give True or False"
            )
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                _check_count(name, value, most)
        if self.num_threads is not None and self.num_threads > (cpus := num_cpus()):
            warnings.warn(
                f"num_threads = {self.num_threads} exceeds the {cpus} CPUs this process may use; "
                "threads that wait for a CPU slow all the others down",
                stacklevel=4,
            )

    @property
    def formats(self) -> FormatOptions:
        """What is asked of weights and cache."""
        return FormatOptions(self.dtype, self.quantization, self.kv_cache_dtype)


def _check_count(name: str, value: object, most: int) -> None:
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or not 1 <= int(value) <= most:  # type: ignore[call-overload]
        raise OptionError(f"{name} = {show(value)} is not allowed; give an integer in [1, {most}]")
