"""The systems of the benchmark give the tokens of transformers, each in its own way of use.

Systems that are not installed are skipped; ``benchmarks/peers.txt`` installs all of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from gpt2fast import LLM
from gpt2fast.bench import peers
from gpt2fast.bench.options import BenchOptions, make_plan
from gpt2fast.bench.peers import native
from gpt2fast.bench.peers.base import Adapter, cached
from gpt2fast.bench.peers.gguf_file import write_gguf
from gpt2fast.errors import MissingDependencyError, OptionError, UnsupportedError
from support.model_grid import PRUNED

VOCAB, CONTEXT, NEW = 300, 64, 16
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 128, "vocab_size": VOCAB, "n_positions": CONTEXT}
PROMPTS = [[(7 * i + 3) % VOCAB for i in range(9)], [(11 * i + 5) % VOCAB for i in range(9)]]
# A compiled model takes half a minute to get ready.
QUICK = [name for name in peers.names() if name != "transformers-compile"]
BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int4": 4, "int3": 3}
PAIRS = [(name, fmt) for name in QUICK for fmt in peers.formats(name) if fmt != "stored"]

Opened = Callable[..., Adapter]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


@pytest.fixture
def opened(make_checkpoint: Callable[..., tuple[Path, Any]], work: Path) -> Any:
    """``opened(system, format)``: an adapter with the tiny model loaded, closed in the end."""
    path, _ = make_checkpoint(**SIZES)
    made: list[Adapter] = []

    def open_(system: str, fmt: str, **options: str) -> Adapter:
        if reason := peers.missing(system):
            pytest.skip(reason)
        adapter = peers.make_adapter(system, work)
        made.append(adapter)
        adapter.load(adapter.convert(path, fmt), fmt, 1, CONTEXT, 2, **options)
        return adapter

    yield open_
    for adapter in made:
        adapter.close()


@pytest.fixture
def expected(make_checkpoint: Callable[..., tuple[Path, Any]]) -> list[list[int]]:
    """The greedy tokens by full forward passes of transformers in float32."""
    torch = pytest.importorskip("torch")
    _, model = make_checkpoint(**SIZES)
    rows = []
    for prompt in PROMPTS:
        tokens = list(prompt)
        for _ in range(NEW):
            with torch.no_grad():
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        rows.append(tokens[len(prompt) :])
    return rows


def test_every_system_has_its_widest_format_first() -> None:
    assert peers.names()[0] == "gpt2fast"
    for name in peers.names():
        assert peers.formats(name)[0] == "float32"
        assert set(peers.formats(name)) <= {*BITS, "stored"}


@pytest.mark.parametrize("name", peers.names())
def test_the_registry_and_the_adapter_agree_on_formats(name: str, tmp_path: Path) -> None:
    if reason := peers.missing(name):
        with pytest.raises(MissingDependencyError, match="pip install"):
            peers.make_adapter(name, tmp_path)
        assert reason.startswith(f"{name}: not installed; pip install ")
        assert "\n" not in reason
        return
    adapter = peers.make_adapter(name, tmp_path)
    assert peers.formats(name) == adapter.FORMATS
    assert all(isinstance(text, str) and text for text in adapter.versions().values())
    adapter.close()  # without a load


def test_a_missing_module_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    absent = peers.System("native", "Native", ("float32",), ("no_such.module",), "no-such-thing")
    monkeypatch.setitem(peers._SYSTEMS, "absent", absent)
    assert peers.missing("absent") == "absent: not installed; pip install no-such-thing"
    with pytest.raises(MissingDependencyError, match="pip install no-such-thing"):
        peers.make_adapter("absent", tmp_path)


def test_an_unknown_system_is_refused(tmp_path: Path) -> None:
    for use in (peers.formats, peers.missing, lambda name: peers.make_adapter(name, tmp_path)):
        with pytest.raises(OptionError, match=r"'vllm' is unknown; choose from gpt2fast, "):
            use("vllm")


@pytest.mark.parametrize("system", QUICK)
def test_float32_tokens_are_those_of_transformers(
    system: str, opened: Opened, expected: list[list[int]]
) -> None:
    adapter = opened(system, "float32")
    tokens, _ = adapter.generate(PROMPTS, NEW, time.perf_counter)
    assert tokens == expected
    # Nothing is left over from the batch before.
    assert adapter.generate(PROMPTS[1:], NEW, time.perf_counter)[0] == expected[1:]


@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.parametrize("system", ["transformers-eager", "transformers-sdpa"])
def test_transformers_is_called_by_the_names_that_it_has(system: str, opened: Opened) -> None:
    adapter = opened(system, "float32")
    adapter.generate(PROMPTS, 2, time.perf_counter)
    adapter.logits(PROMPTS[0])


def test_the_cache_is_called_what_the_forward_calls_it() -> None:
    from gpt2fast.bench.peers.transformers import cache_name

    def since_5_24(input_ids: Any, cache: Any = None, **options: Any) -> None: ...

    def until_5_23(input_ids: Any, past_key_values: Any = None, **options: Any) -> None: ...

    assert cache_name(since_5_24) == "cache"
    assert cache_name(until_5_23) == "past_key_values"


@pytest.mark.slow
@pytest.mark.parametrize("fmt", peers.formats("transformers-compile"))
def test_the_compiled_model_gives_the_same_tokens(
    fmt: str, opened: Opened, expected: list[list[int]]
) -> None:
    adapter = opened("transformers-compile", fmt)
    for _ in range(2):  # the static cache is used again
        tokens, _times = adapter.generate(PROMPTS, NEW, time.perf_counter)
        count = NEW if fmt == "float32" else 1
        assert [row[:count] for row in tokens] == [row[:count] for row in expected]


@pytest.mark.parametrize(("system", "fmt"), PAIRS)
def test_steps_are_timed_one_by_one(system: str, fmt: str, opened: Opened) -> None:
    adapter = opened(system, fmt)
    start = time.perf_counter()
    tokens, times = adapter.generate(PROMPTS, NEW, time.perf_counter)
    span = [start, *times, time.perf_counter()]
    assert [len(row) for row in tokens] == [NEW, NEW]
    assert all(0 <= token < VOCAB for row in tokens for token in row)
    assert len(times) == NEW
    assert span == sorted(set(span))


@pytest.mark.parametrize(("system", "fmt"), PAIRS)
def test_logits_are_near_those_of_transformers(
    system: str,
    fmt: str,
    opened: Opened,
    make_checkpoint: Callable[..., tuple[Path, Any]],
) -> None:
    torch = pytest.importorskip("torch")
    _, model = make_checkpoint(**SIZES)
    with torch.no_grad():
        reference = model(torch.tensor(PROMPTS[:1])).logits[0].numpy()
    logits = opened(system, fmt).logits(PROMPTS[0])
    assert logits.dtype == np.float32
    assert logits.shape == (len(PROMPTS[0]), VOCAB)
    error = np.linalg.norm(logits - reference) / np.linalg.norm(reference)
    # llama.cpp looks GELU up in a float16 table and keeps keys and values in float16; 8-bit sums
    # of CTranslate2 saturate on CPUs without VNNI.
    limits = {
        "float32": 3e-3, "float16": 6e-3, "bfloat16": 3e-2, "int8": 0.2, "int4": 0.4, "int3": 0.8
    }  # fmt: skip
    assert error < limits[fmt]


@pytest.mark.parametrize(("system", "fmt"), PAIRS)
def test_bytes_of_a_step_are_those_of_the_format(
    system: str,
    fmt: str,
    opened: Opened,
    make_checkpoint: Callable[..., tuple[Path, Any]],
) -> None:
    _, model = make_checkpoint(**SIZES)
    adapter = opened(system, fmt)
    read = model.num_parameters() - CONTEXT * SIZES["n_embd"]
    bits = BITS[fmt]
    weights = adapter.weight_bytes()
    assert weights is not None
    # Above: vectors in float32, scales, and a head of 8 bits in a model of 4 or 3.
    assert read * bits / 8 <= weights <= read * bits / 8 * (1.9 if bits <= 4 else 1.2)
    cache = adapter.kv_bytes_per_token()
    assert cache is not None
    values = 2 * SIZES["n_layer"] * SIZES["n_embd"]
    assert values <= cache <= 4 * values


@pytest.mark.parametrize("system", QUICK)
def test_options_and_formats_that_a_system_does_not_have_are_refused(
    system: str, opened: Opened
) -> None:
    with pytest.raises(OptionError, match=r"no option paged \(given 'yes'\)"):
        opened(system, "float32", paged="yes")
    with pytest.raises(OptionError, match=r"no format 'int2'; choose from float32, "):
        opened(system, "int2")


@pytest.mark.parametrize("system", [name for name in QUICK if not name.startswith("gpt2fast")])
def test_layers_of_different_shapes_are_refused(
    system: str, make_checkpoint: Callable[..., tuple[Path, Any]], work: Path
) -> None:
    if reason := peers.missing(system):
        pytest.skip(reason)
    path, _ = make_checkpoint(**PRUNED)
    adapter = peers.make_adapter(system, work)
    with pytest.raises(UnsupportedError, match=f"^{system} has no layers of different shapes"):
        adapter.convert(path, "float32")


@pytest.mark.parametrize("kind", ["int8", "export"])
def test_a_settled_model_is_measured_as_it_is(
    kind: str, make_checkpoint: Callable[..., tuple[Path, Any]], work: Path, tmp_path: Path
) -> None:
    path, _ = make_checkpoint(**SIZES)
    out = tmp_path / "out"
    if kind == "int8":
        LLM(path, device="cpu", quantization="int8", num_threads=1).save_quantized(out)
    else:
        pytest.importorskip("onnx_ir")
        pytest.importorskip("onnxruntime")
        from gpt2fast.export import export

        export(out=out, model=path)
    plan = make_plan(BenchOptions(models=(str(out),), prompt=(8,), tokens=(4,), work=str(work)))
    (case,) = plan.cases
    assert (case.variant.format, case.variant.model.reference_format) == ("stored", "stored")
    adapter = peers.make_adapter("gpt2fast", work)
    adapter.load(out, "stored", 1, CONTEXT, 2)
    tokens, _ = adapter.generate(PROMPTS, NEW, time.perf_counter)
    assert [len(row) for row in tokens] == [NEW, NEW]
    assert adapter.weight_bytes()
    assert adapter.kv_bytes_per_token()
    adapter.close()


def test_ours_has_layers_of_different_shapes(
    make_checkpoint: Callable[..., tuple[Path, Any]], work: Path
) -> None:
    path, _ = make_checkpoint(**PRUNED)
    adapter = peers.make_adapter("gpt2fast", work)
    adapter.load(adapter.convert(path, "float32"), "float32", 1, CONTEXT, 2)
    assert adapter.kv_bytes_per_token() == 2 * (1 + 3 + 2) * 16 * 4
    adapter.close()
    adapter.load(path, "int8", 1, CONTEXT, 2, kv_cache_dtype="int8")
    assert adapter.kv_bytes_per_token() == 2 * (1 + 3 + 2) * (16 + 4)
    adapter.close()


@pytest.mark.parametrize("system", ["onnxruntime", "ctranslate2", "openvino", "llama_cpp"])
def test_a_model_is_converted_once(
    system: str, make_checkpoint: Callable[..., tuple[Path, Any]], work: Path
) -> None:
    if reason := peers.missing(system):
        pytest.skip(reason)
    path, _ = make_checkpoint(**SIZES)
    adapter = peers.make_adapter(system, work)
    first = adapter.convert(path, "int8")
    made = first.stat().st_mtime_ns
    assert adapter.convert(path, "int8") == first
    assert first.stat().st_mtime_ns == made
    assert not list(work.glob(".*"))


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source, work = tmp_path / "model", tmp_path / "work"
    source.mkdir()

    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        cached(work, source, "x", {}, fail)
    assert list(work.iterdir()) == []
    path = cached(work, source, "x", {}, lambda p: p.mkdir())
    assert list(work.iterdir()) == [path]
    (work / f".{path.name[:40]}-abcdefgh.partial").mkdir()  # of a process that was killed
    assert cached(work, source, "x", {}, fail) == path
    assert list(work.iterdir()) == [path]


def test_another_checkpoint_or_version_is_another_conversion(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text("{}")

    def convert(versions: dict[str, str]) -> Path:
        return cached(tmp_path / "work", source, "x", versions, lambda path: path.mkdir())

    first = convert({"a": "1"})
    assert convert({"a": "2"}) != first
    (source / "config.json").write_text('{"n_layer": 3}')
    assert convert({"a": "1"}) != first


@pytest.mark.parametrize(
    ("field", "value"),
    [("activation_function", "relu"), ("scale_attn_by_inverse_layer_idx", True)],
)
def test_what_llama_cpp_would_run_wrongly_is_refused(
    field: str, value: object, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({field: value}))
    with pytest.raises(UnsupportedError, match=f"config.json: {field} = {value!r}"):
        write_gguf(tmp_path, tmp_path / "out.gguf", "F32")


def test_each_token_has_its_time() -> None:
    """Several steps are one call of the core, which says when each of them ended."""
    with LLM("demo", num_threads=1) as llm:
        call = partial(native._generate, [[1, 2], [3, 4]], 24, perf_counter)
        start = perf_counter()
        tokens, times = llm.engine_loop.run(call)
    assert [len(row) for row in tokens] == [24, 24]
    assert start < times[0]
    assert all(before < after for before, after in pairwise(times))
    assert times[-1] < perf_counter()
