"""What is to be measured: systems, formats, models and sizes, multiplied out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from gpt2fast.bench import peers
from gpt2fast.bench.peers.native import STORED
from gpt2fast.config import ModelConfig
from gpt2fast.errors import ContextOverflowError, OptionError

NATIVE = "gpt2fast"
AUTO = "auto"  # a system's widest format; of a model that is stored in another one, that
ALL = "all"


@dataclass(frozen=True)
class Model:
    """A checkpoint on disk under the name that tables give it."""

    label: str
    path: Path
    config: ModelConfig
    is_settled: bool = False  # stored quantized, or an export: it runs as it is

    @property
    def reference_format(self) -> str:
        """What gpt2fast runs it in, for others to agree with."""
        return STORED if self.is_settled else "float32"


@dataclass(frozen=True)
class Variant:
    """A model as one system holds it."""

    system: str
    format: str
    model: Model
    kv_cache_dtype: str | None = None  # of gpt2fast; None is its default

    @property
    def name(self) -> str:
        """System, format and what departs from the default, for people."""
        cache = f" kv-{self.kv_cache_dtype}" if self.kv_cache_dtype else ""
        return f"{self.system} {self.format}{cache}"


@dataclass(frozen=True)
class Case:
    """One row: a variant at one point of the grid."""

    variant: Variant
    threads: int
    batch: int
    prompt_tokens: int
    new_tokens: int

    @property
    def point(self) -> tuple[str, int, int, int, int]:
        """What it has in common with the cases that it may be compared to."""
        label = self.variant.model.label
        return (label, self.threads, self.batch, self.prompt_tokens, self.new_tokens)

    @property
    def mid_context(self) -> float:
        """Tokens that the decode step in the middle of the run has cached."""
        return self.prompt_tokens + self.new_tokens / 2

    def __str__(self) -> str:
        size = f"b{self.batch} {self.prompt_tokens}+{self.new_tokens} t{self.threads}"
        return f"{self.variant.model.label} {self.variant.name} {size}"


@dataclass(frozen=True)
class Sizes:
    """The axes of the grid besides systems, formats and models."""

    batch: tuple[int, ...]
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    threads: tuple[int, ...]


def expand(
    models: Sequence[Model],
    systems: Sequence[tuple[str, str]],
    sizes: Sizes,
    kv_cache_dtypes: Sequence[str] = (),
) -> list[Case]:
    """Every case; those of one point follow each other. ``systems`` are pairs with a format.

    Raises ``ContextOverflowError`` where prompt and new tokens exceed a model's context.
    """
    for model, prompt, tokens in product(models, sizes.prompt, sizes.tokens):
        if prompt + tokens > model.config.n_positions:
            raise ContextOverflowError(
                f"--prompt {prompt} and --tokens {tokens} exceed the context of {model.label}, "
                f"{model.config.n_positions} tokens; lower one of them"
            )
    cases = []
    axes = product(models, sizes.threads, sizes.batch, sizes.prompt, sizes.tokens)
    for model, threads, batch, prompt, tokens in axes:
        for system, fmt in dict.fromkeys(_settle(model, *pair) for pair in systems):
            caches = kv_cache_dtypes if system == NATIVE and kv_cache_dtypes else (None,)
            for cache in caches:
                variant = Variant(system, fmt, model, cache)
                cases.append(Case(variant, threads, batch, prompt, tokens))
    return cases


def _settle(model: Model, system: str, fmt: str) -> tuple[str, str]:
    if fmt != AUTO:
        return system, fmt
    return system, widest(model, system)


def widest(model: Model, system: str) -> str:
    """The format of ``system`` that is nearest to what ``model`` is stored in."""
    known = peers.formats(system)
    return STORED if model.is_settled and STORED in known else known[0]


def choose_systems(names: Sequence[str], formats: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of system and format. A name may carry formats of its own: ``llama_cpp:float16,int8``.

    ``all`` stands for every system that is installed, each with those of ``formats`` that it has.
    Raises ``OptionError`` for an unknown system, and for a format that a system does not have.
    """
    pairs: list[tuple[str, str]] = []
    for name in names:
        if name == ALL:
            pairs += _all_installed(formats)
            continue
        system, _, own = name.partition(":")
        _check_system(system)
        for fmt in own.split(",") if own else formats:
            known = peers.formats(system)
            if fmt not in (AUTO, *known):
                raise OptionError(
                    f"{system} has no format {fmt!r}; it has {', '.join(known)}. Formats can be "
                    f"chosen for each system: --system {system}:{known[0]}"
                )
            pairs.append((system, fmt))
    return list(dict.fromkeys(pairs))


def _all_installed(formats: Sequence[str]) -> list[tuple[str, str]]:
    found = [name for name in peers.names() if peers.missing(name) is None]
    known = {name: (AUTO, *peers.formats(name)) for name in found}
    pairs = [(name, fmt) for name in found for fmt in formats if fmt in known[name]]
    if not pairs:
        raise OptionError(f"no installed system has a format of --format {' '.join(formats)}")
    return pairs


def _check_system(name: str) -> None:
    if name not in peers.names():
        raise OptionError(
            f"--system {name!r} is unknown; choose from {', '.join(peers.names())}, {ALL}"
        )


def find_baseline(cases: Sequence[Case], wanted: str | None) -> Variant | None:
    """The variant to divide by: ``SYSTEM`` or ``SYSTEM:FORMAT``, by default the first.

    With several models, its format and system count. Raises ``OptionError`` where none matches.
    """
    if wanted is None:
        return cases[0].variant if cases else None
    system, _, fmt = wanted.partition(":")
    for case in cases:
        if case.variant.system == system and fmt in ("", case.variant.format):
            return case.variant
    known = dict.fromkeys(f"{c.variant.system}:{c.variant.format}" for c in cases)
    raise OptionError(f"--baseline {wanted!r} is not measured; choose from {', '.join(known)}")
