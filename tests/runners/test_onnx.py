"""The engine on onnxruntime: the logits and texts of the C++ runner, whatever the cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

from gpt2fast import LLM, SamplingParams
from gpt2fast.checkpoint import Export, open_checkpoint, open_model
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.export import ExportOptions, export
from gpt2fast.runners.onnx import OnnxRunner
from gpt2fast.sampling_params import BeamSearchParams
from support.bits import tokens_for
from support.model_grid import BASE, PRUNED
from support.paged import PagedSequences

Make = Callable[..., tuple[Path, Any]]
HEADS_OF_20 = {**BASE, "n_embd": 60}  # which no attention of onnxruntime appends to in place
KINDS = [
    pytest.param(BASE, "fp32", "ort", id="shared"),
    pytest.param(PRUNED, "fp32", "ort", id="shared-pruned"),
    pytest.param(HEADS_OF_20, "fp32", "ort", id="grown"),
    pytest.param(BASE, "fp32", "portable", id="portable"),
    pytest.param(BASE, "fp16", "ort", id="shared-fp16"),
    pytest.param(BASE, "int8", "ort", id="shared-int8"),
]
LOOSE = {"fp32": 1e-4, "fp16": 3e-2, "int8": 0.2}  # of logits that spread over some units


def runner_of(path: Path, out: Path, precision: str, target: str) -> OnnxRunner:
    export(path, out, ExportOptions(precision, target, num_threads=1))
    opened = open_model(out)
    assert isinstance(opened, Export)
    return OnnxRunner(opened, num_threads=1, num_blocks=8)


@pytest.mark.parametrize(("fields", "precision", "target"), KINDS)
def test_any_mix_of_chunks_gives_the_logits_of_the_whole(
    fields: dict[str, Any], precision: str, target: str, make_checkpoint: Make, tmp_path: Path
) -> None:
    """Prompts in pieces, single tokens of several sequences at once, forks, in any order."""
    path, _ = make_checkpoint(**fields)
    runner = runner_of(path, tmp_path / "out", precision, target)
    llm = LLM(path, device="cpu", num_threads=1)
    texts = [tokens_for(runner.config, 60 + 5 * i, seed=i) for i in range(5)]
    want = [llm.logits(text.tolist()) for text in texts]
    assert min(np.ptp(each) for each in want) > 1.0
    sequences, rng = PagedSequences(runner), np.random.default_rng(0)
    handles = {i: sequences.create(text)[0] for i, text in enumerate(texts)}
    done, batched = dict.fromkeys(handles, 0), 0
    while handles:
        sizes = {i: int(rng.choice([1, 1, 1, 7, 20])) for i in handles if rng.random() < 0.8}
        chunks = {i: texts[i][done[i] : done[i] + size] for i, size in sizes.items()}
        if not chunks:
            continue
        if rng.random() < 0.2:  # a sequence goes on in a copy of its cache
            i = next(iter(chunks))
            fork = sequences.pool.fork(handles[i])
            sequences.step([(fork, chunks[i][:1])])
            sequences.pool.free(handles[i])
            handles[i], done[i] = fork, done[i] + 1
            chunks[i] = texts[i][done[i] : done[i] + sizes[i]]
        chunks = {i: each for i, each in chunks.items() if len(each)}
        batched += sum(len(each) == 1 for each in chunks.values()) > 1
        rows = sequences.step([(handles[i], each) for i, each in chunks.items()]) if chunks else []
        for (i, each), found in zip(chunks.items(), rows, strict=True):
            span = slice(done[i], done[i] + len(each))
            np.testing.assert_allclose(found, want[i][span], atol=LOOSE[precision], rtol=0)
            done[i] += len(each)
        for i in [i for i in handles if done[i] == len(texts[i])]:
            sequences.pool.free(handles.pop(i))
    assert batched > 3


@pytest.mark.parametrize(("fields", "target"), [(BASE, "ort"), (HEADS_OF_20, "ort")])
def test_an_export_generates_what_its_checkpoint_does(
    fields: dict[str, Any], target: str, make_checkpoint: Make, tmp_path: Path
) -> None:
    """Greedily, several completions, beams, past the context, and in a cache that is too small."""
    path, _ = make_checkpoint(**fields)
    export(path, tmp_path / "out", ExportOptions(target=target, num_threads=1))
    prompts = [[3, 5, 8], [13, 21], list(range(30)), [1], [7, 7, 7]]
    greedy = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
    drawn = SamplingParams(temperature=0.8, max_tokens=20, n=3, seed=5, ignore_eos=True)
    slides = SamplingParams(temperature=0.0, max_tokens=150, overflow="slide", ignore_eos=True)
    beams = BeamSearchParams(beam_width=3, max_tokens=15)
    found = []
    for model, tokens in ((path, None), (tmp_path / "out", None), (tmp_path / "out", 200)):
        with LLM(model, device="cpu", num_threads=1, kv_cache_tokens=tokens) as llm:
            outputs = [*llm.generate(prompts, greedy), *llm.generate(prompts[:2], slides)]
            if tokens is None:
                outputs += [*llm.generate(prompts, drawn), *llm.beam_search(prompts[:2], beams)]
            found.append([list(each.token_ids) for one in outputs for each in one.outputs])
    assert found[1] == found[0]
    assert found[2] == found[0][: len(found[2])]


def test_what_is_settled_cannot_be_chosen(make_checkpoint: Make, tmp_path: Path) -> None:
    path, _ = make_checkpoint(**BASE)
    export(path, tmp_path / "out", ExportOptions(num_threads=1))
    for option in ({"dtype": "float32"}, {"quantization": "int8"}, {"kv_cache_dtype": "int8"}):
        with pytest.raises(OptionError, match=r"is an ONNX export, which is what it is; leave it"):
            LLM(tmp_path / "out", **option)
    with pytest.raises(OptionError, match=r"device = 'torch' is not available for an ONNX export"):
        LLM(tmp_path / "out", device="torch")
    with pytest.raises(CheckpointError, match=r"is an ONNX export: it can be run, evaluated"):
        open_checkpoint(tmp_path / "out")
    with LLM(tmp_path / "out") as llm, pytest.raises(OptionError, match="is not quantized"):
        llm.save_quantized(tmp_path / "other")


@pytest.mark.parametrize(
    "change", [{"n_positions": 200}, {"vocab_size": 210}, {"n_layer": 3}, {"n_head": 6}], ids=str
)
def test_the_configuration_of_another_model_is_refused(
    change: dict[str, int], make_checkpoint: Make, tmp_path: Path
) -> None:
    path, _ = make_checkpoint(**BASE)
    export(path, tmp_path / "out", ExportOptions(num_threads=1))
    file = tmp_path / "out" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(CheckpointError, match=r"config\.json is not of model\.onnx: heads and"):
        LLM(tmp_path / "out")


def test_a_damaged_graph_is_named(make_checkpoint: Make, tmp_path: Path) -> None:
    path, _ = make_checkpoint(**BASE)
    export(path, tmp_path / "out", ExportOptions(num_threads=1))
    graph = tmp_path / "out" / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model\.onnx: onnxruntime .* refuses the graph"):
        LLM(tmp_path / "out")
    graph.write_bytes(whole.replace(b"cache", b"cachx"))
    with pytest.raises(CheckpointError, match=r"model\.onnx: not written by gpt2fast export"):
        LLM(tmp_path / "out")
    (tmp_path / "out" / "model.onnx.data").unlink()
    with pytest.raises(CheckpointError, match=r"model\.onnx: onnxruntime .* refuses the graph"):
        LLM(tmp_path / "out")
