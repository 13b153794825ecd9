"""The options of a benchmark, checked as a whole before anything slow starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2fast.bench.grid import (
    AUTO,
    Case,
    Model,
    Sizes,
    Variant,
    choose_systems,
    expand,
    find_baseline,
)
from gpt2fast.bench.output import check_out
from gpt2fast.bench.sizes import SIZES, config_fields, random_path
from gpt2fast.checkpoint import Export, open_model
from gpt2fast.config import ModelConfig
from gpt2fast.errors import OptionError
from gpt2fast.evaluate.text import Text, read_text
from gpt2fast.evaluate.windows import make_protocol
from gpt2fast.files.disk import check_place, make_directory
from gpt2fast.flag_names import flag_name
from gpt2fast.host import default_num_threads

_KV_CACHE_DTYPES = ("auto", "float32", "bfloat16", "int8")
_MOST = {"batch": 1024, "prompt": 1 << 20, "tokens": 1 << 20, "threads": 1024}


@dataclass(frozen=True)
class BenchOptions:
    """What ``gpt2fast bench`` can be told; docs/bench.md describes each."""

    models: tuple[str, ...] = ()
    random: tuple[str, ...] = ()
    system: tuple[str, ...] = ("gpt2fast",)
    format: tuple[str, ...] = (AUTO,)
    batch: tuple[int, ...] = (1,)
    prompt: tuple[int, ...] = (128,)
    tokens: tuple[int, ...] = (128,)
    threads: tuple[int, ...] = ()
    kv_cache_dtype: tuple[str, ...] = ()
    rounds: int = 5
    starts: int = 3
    text: tuple[str, ...] = ()
    text_tokens: int = 4096
    context: int | None = None
    stride: int | None = None
    baseline: str | None = None
    timeout: float = 1800.0
    out: str | None = None
    overwrite: bool = False
    work: str | None = None


@dataclass(frozen=True)
class Plan:
    """Everything that will be measured, and where things go."""

    options: BenchOptions
    cases: tuple[Case, ...]
    baseline: Variant | None
    texts: dict[str, Text]  # by the label of the model
    work: Path
    out: Path | None


def make_plan(options: BenchOptions) -> Plan:
    """Check everything and expand the grid. Nothing slow: random checkpoints are not written yet.

    Raises an error of ``gpt2fast.errors`` naming the option at fault.
    """
    _check_counts(options)
    if not options.models and not options.random:
        raise OptionError("give a MODEL ('demo', a directory, a hub id) or --random SIZE")
    for dtype in options.kv_cache_dtype:
        if dtype not in _KV_CACHE_DTYPES:
            raise OptionError(
                f"--kv-cache-dtype {dtype!r} is unknown; choose from {', '.join(_KV_CACHE_DTYPES)}"
            )
    for size in options.random:
        if size not in SIZES:
            raise OptionError(f"--random {size!r} is unknown; choose from {', '.join(SIZES)}")
    for name in ("context", "stride"):
        if getattr(options, name) is not None and not options.text:
            raise OptionError(
                f"--{name} is of the windows of --text, which is not given; add it, or leave "
                f"--{name} out"
            )
    systems = choose_systems(options.system, options.format)
    if options.text and options.random:
        raise OptionError("--text says nothing of random weights; leave out --text or --random")
    out = _place(options.out, "--out") if options.out else None
    if options.overwrite and out is None:
        raise OptionError("--overwrite is of --out; give --out DIR too")
    work = _work_directory(options.work)
    sizes = Sizes(
        batch=_unique(options.batch),
        prompt=_unique(options.prompt),
        tokens=_unique(options.tokens),
        threads=_unique(options.threads) or (default_num_threads(),),
    )
    models = _models(options, work)
    if out is not None:
        check_out(out, [model.path for model in models], options.overwrite)
    cases = expand(models, systems, sizes, options.kv_cache_dtype)
    baseline = find_baseline(cases, options.baseline)
    texts = _texts(options, models)
    make_directory(str(work), work, "--work")
    return Plan(options, tuple(cases), baseline, texts, work, out)


def _unique(values: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(values))


def _check_counts(options: BenchOptions) -> None:
    for name, most in _MOST.items():
        for value in getattr(options, name):
            if not 1 <= value <= most:
                raise OptionError(f"--{name} {value} is not in [1, {most}]")
    for name in ("rounds", "starts", "text_tokens", "stride", "context"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise OptionError(f"{flag_name(name)} {value} is not positive")
    if min(options.tokens) < 2:
        raise OptionError("--tokens must be at least 2: one token has no time after the first")
    if not options.timeout > 0:
        raise OptionError(f"--timeout {options.timeout:g} is not positive; give seconds")


def _models(options: BenchOptions, work: Path) -> list[Model]:
    models = [_open(name) for name in dict.fromkeys(options.models)]
    labels = [model.label for model in models]
    for label in labels:
        if labels.count(label) > 1:
            paths = " and ".join(str(model.path) for model in models if model.label == label)
            raise OptionError(f"{paths} would both be called {label!r}; rename a directory")
    for size in dict.fromkeys(options.random):
        config = ModelConfig.from_dict(config_fields(size), size)
        models.append(Model(f"{size} (random)", random_path(size, work), config))
    return models


def _open(name: str) -> Model:
    with open_model(name) as opened:
        path = opened.path.resolve()
        is_directory = Path(os.path.expanduser(name)).is_dir()
        settled = isinstance(opened, Export) or opened.quantization is not None
        return Model(path.name if is_directory else name, path, opened.config, settled)


def _texts(options: BenchOptions, models: Sequence[Model]) -> dict[str, Text]:
    if not options.text:
        return {}
    texts = {}
    for model in models:
        positions = model.config.n_positions
        protocol = make_protocol("stride", positions, options.context, options.stride)
        with open_model(model.path) as opened:
            tokenizer = opened.load_tokenizer()
        if tokenizer is None:
            raise OptionError(f"{model.label} has no tokenizer to read --text with; leave it out")
        texts[model.label] = read_text(
            options.text, tokenizer, protocol, max_tokens=options.text_tokens
        )
    return texts


def _work_directory(given: str | None) -> Path:
    if given:
        return _place(given, "--work")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return _place(os.path.join(cache, "gpt2fast", "bench"), "--work")


def _place(directory: str, flag: str) -> Path:
    """The directory, which can be written to or made; it is not made yet."""
    path = Path(directory).expanduser()
    check_place(str(path), flag)
    return path
