"""An exported graph is the model: every flag, every format, from a cache, in a batch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

from gpt2fast import LLM, SamplingParams
from gpt2fast.bench.sizes import random_checkpoint
from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.errors import GPT2FastError, OptionError, UnsupportedError
from gpt2fast.export import ExportOptions, export, operators
from gpt2fast.export.run import PRECISIONS, TARGETS
from gpt2fast.export.verify import Certificate, Graph
from support.model_grid import BASE, FLAG_GRID

Make = Callable[..., tuple[Path, Any]]
ONE_THREAD = ExportOptions(num_threads=1)


def greedy(graph: Graph, prompt: list[int], new: int) -> list[int]:
    """Token after token, from the cache."""
    tokens, mask = list(prompt), np.ones((1, len(prompt) + new), np.int64)
    ids, past = np.array([prompt], np.int64), graph.empty(1)
    for _ in range(new):
        logits, past = graph.step(ids, mask[:, : len(tokens)], past)
        tokens.append(int(logits[0, -1].argmax()))
        ids = np.array([[tokens[-1]]], np.int64)
    return tokens[len(prompt) :]


@pytest.mark.parametrize("fields", FLAG_GRID)
def test_every_flag(fields: dict[str, Any], make_checkpoint: Make, tmp_path: Path) -> None:
    """The command verifies logits, cache and batch; here the tokens are compared as well."""
    path, _ = make_checkpoint(**{**fields, "n_positions": 140})
    report = export(path, tmp_path / "out", ONE_THREAD)
    assert report["certificate"]["precision"] == "fp32"
    check_greedy(path, tmp_path / "out")


@pytest.mark.slow
def test_a_model_of_true_size(tmp_path: Path) -> None:
    path = random_checkpoint("gpt2", tmp_path)
    export(path, tmp_path / "out", ONE_THREAD)
    check_greedy(path, tmp_path / "out")


def check_greedy(path: Path, out: Path) -> None:
    """128 tokens, by onnxruntime alone and by the engine on it."""
    llm = LLM(path, device="cpu", num_threads=1)
    params = SamplingParams(temperature=0.0, max_tokens=128, ignore_eos=True)
    want = llm.generate([[3, 5, 8]], params)[0].outputs[0].token_ids
    assert greedy(Graph(out, llm.config), [3, 5, 8], 128) == list(want)
    exported = LLM(out, num_threads=1)
    assert exported.generate([[3, 5, 8]], params)[0].outputs[0].token_ids == want


@pytest.mark.parametrize("target", TARGETS)
def test_layers_of_different_shapes(target: str, make_checkpoint: Make, tmp_path: Path) -> None:
    path, _ = make_checkpoint(**BASE, layers=[[2, 100], [1, 33]])
    for precision in PRECISIONS[1:]:
        export(path, tmp_path / precision, ExportOptions(precision, target, num_threads=1))


@pytest.mark.parametrize(
    "fields",
    [
        *({"activation_function": name} for name in ("gelu", "gelu_10", "quick_gelu", "silu")),
        {"n_embd": 35, "n_head": 5, "tie_word_embeddings": False},
        {"scale_attn_by_inverse_layer_idx": True},
    ],
    ids=str,
)
def test_standard_operators_alone(
    fields: dict[str, Any], make_checkpoint: Make, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    path, _ = make_checkpoint(**{**BASE, **fields})
    export(path, tmp_path / "out", ExportOptions(target="portable", num_threads=1))
    export(path, tmp_path / "int4", ExportOptions("int4", "portable", num_threads=1))
    for out in ("out", "int4"):
        onnx.checker.check_model(str(tmp_path / out / "model.onnx"), full_check=True)
        loaded = onnx.load(str(tmp_path / out / "model.onnx"), load_external_data=False)
        assert {each.domain: each.version for each in loaded.opset_import} == {"": 23}
        assert {node.domain for node in loaded.graph.node} == {""}
    check_by_the_standard(path, tmp_path / "out")


def check_by_the_standard(path: Path, out: Path) -> None:
    """The standard's own, slow implementation: the last two of six tokens from the cache."""
    from onnx import load
    from onnx.reference import ReferenceEvaluator

    llm = LLM(path, device="cpu", num_threads=1)
    runtime, past = (
        ReferenceEvaluator(load(str(out / "model.onnx"))),
        Graph(out, llm.config).empty(1),
    )
    ids, rows = np.array([[3, 5, 8, 13, 21, 34]]), []
    for start, end in ((0, 4), (4, 6)):
        given = {
            "input_ids": ids[:, start:end],
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(start, end)[None],
            "num_logits_to_keep": np.array(0),
        }
        logits, *present = runtime.run(None, {**given, **past})
        rows.append(logits[0])
        past = dict(zip(past, present, strict=True))
    want = llm.logits(ids[0].tolist())
    np.testing.assert_allclose(np.concatenate(rows), want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "int4"])
def test_the_bundled_model_in_every_precision(precision: str, target: str, tmp_path: Path) -> None:
    report = export("demo", tmp_path / "out", ExportOptions(precision, target, num_threads=1))
    proof = report["certificate"]
    assert proof["agreement"] > 0.9
    assert abs(proof["perplexity"] / proof["source_perplexity"] - 1) < 0.005
    assert json.loads((tmp_path / "out" / "report.json").read_text())["certificate"] == proof


@pytest.mark.parametrize("scheme", ["int8-g32", "int4-g128", "int3"])
def test_what_is_stored_in_integers_keeps_them(scheme: str, tmp_path: Path) -> None:
    """Auto is what the checkpoint has; three bits lie in four."""
    LLM("demo", device="cpu", quantization=scheme, num_threads=1).save_quantized(tmp_path / "q")
    report = export(tmp_path / "q", tmp_path / "out", ONE_THREAD)
    assert report["certificate"]["precision"] == ("int8" if "int8" in scheme else "int4")
    assert report["certificate"]["divergence"] < 5e-3
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    wrong = "int4" if "int8" in scheme else "int8"
    with pytest.raises(OptionError, match=r"is stored in .*leave it out"):
        export(tmp_path / "q", tmp_path / "other", ExportOptions(wrong))


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_rounded_for_the_export_is_rounded_for_a_checkpoint(
    precision: str, make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte of the weights, and no checkpoint is written for it."""
    path, _ = make_checkpoint(**BASE, layers=[[2, 100], [1, 33]])
    with LLM(path, device="cpu", quantization=precision, num_threads=1) as llm:
        llm.save_quantized(tmp_path / "rounded")
    export(tmp_path / "rounded", tmp_path / "want", ONE_THREAD)
    monkeypatch.setattr("gpt2fast.engine.llm.LLM.save_quantized", None)
    export(path, tmp_path / "got", ExportOptions(precision, num_threads=1))
    for name in ("model.onnx.data", "config.json"):
        want, got = (tmp_path / each / name for each in ("want", "got"))
        assert got.read_bytes() == want.read_bytes(), name


def test_the_checker_passes_and_weights_are_stored_once(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    path, model = make_checkpoint(**BASE)
    export(path, tmp_path / "out", ONE_THREAD)
    onnx.checker.check_model(str(tmp_path / "out" / "model.onnx"), full_check=False)
    loaded = onnx.load(str(tmp_path / "out" / "model.onnx"))
    sizes = {each.name: int(np.prod(each.dims)) for each in loaded.graph.initializer}
    assert sum(name == "wte.weight" for name in sizes) == 1
    weights = sum(size for name, size in sizes.items() if "." in name and "number" not in name)
    assert weights == sum(p.numel() for p in model.parameters())
    facts = {each.key: each.value for each in loaded.metadata_props}
    assert len(facts["source_sha256"]) == 64
    names = [each.name for each in loaded.graph.input]
    assert names[:3] == ["input_ids", "attention_mask", "position_ids"]
    assert "past_key_values.1.value" in names
    assert [each.name for each in loaded.graph.output][:2] == ["logits", "present.0.key"]


def test_no_torch_is_needed(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from gpt2fast import LLM, SamplingParams\n"
        "from gpt2fast.export import ExportOptions, export\n"
        "export('demo', 'out', ExportOptions('int4'))\n"
        "print(LLM('out').generate('import', SamplingParams(max_tokens=3))[0].outputs[0].text)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=120)


def test_rows_that_nobody_wants_are_left_out(tmp_path: Path) -> None:
    export("demo", tmp_path / "out", ONE_THREAD)
    llm = LLM("demo", device="cpu", num_threads=1)
    graph = Graph(tmp_path / "out", llm.config)
    ids, mask = np.array([[5, 6, 7, 8]], np.int64), np.ones((1, 4), np.int64)
    every, _ = graph.step(ids, mask, graph.empty(1))
    last, _ = graph.step(ids, mask, graph.empty(1), num_logits_to_keep=np.array(1, np.int64))
    assert last.shape == (1, 1, llm.config.vocab_size)
    np.testing.assert_allclose(last[0, 0], every[0, -1], atol=1e-4)


def test_a_graph_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "HIDDEN", {"float32": 0.0})  # padding is seen
    with pytest.raises(GPT2FastError, match=r"a batch changes logits .* nothing was written"):
        export("demo", tmp_path / "out", ONE_THREAD)
    assert list(tmp_path.iterdir()) == []


def test_padding_does_not_overflow(tmp_path: Path) -> None:
    """A head whose scores are large and negative, and which nothing follows."""
    from safetensors.numpy import save_file

    with open_checkpoint("demo") as demo:
        tensors = {name: np.array(demo.tensor(name).float32()) for name in demo.names}
        source, size, width = demo.path, demo.config.head_size, demo.config.n_embd
    bias = tensors["h.0.attn.c_attn.bias"]
    bias[:size], bias[width : width + size] = 27.0, -27.0
    tensors["h.0.attn.c_proj.weight"][:size] = 0.0
    (tmp_path / "model").mkdir()
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "config.json").write_bytes((source / "config.json").read_bytes())
    for target in TARGETS:
        options = ExportOptions("fp16", target, num_threads=1)
        proof = export(tmp_path / "model", tmp_path / target, options)["certificate"]
        assert proof["batch_difference"] < 0.02


def test_what_is_not_a_number_is_no_proof() -> None:
    proof = Certificate("fp16", "x", 10, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, float("nan"))
    assert proof.problems()[0] == "logits are not finite"


def test_wrong_requests_are_refused(
    tmp_path: Path, make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError, match=r"precision = 'int2' is not known; use one of auto"):
        ExportOptions("int2")
    with pytest.raises(OptionError, match=r"target = 'trt' is not known; use one of ort, portable"):
        ExportOptions(target="trt")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(OptionError, match="is a directory with files in it"):
        export("demo", tmp_path / "taken")
    monkeypatch.setattr("gpt2fast.export.activation._ACTIVATIONS", {})
    path, _ = make_checkpoint(**{**BASE, "activation_function": "relu"})
    with pytest.raises(UnsupportedError, match='"relu" cannot be exported'):
        export(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
