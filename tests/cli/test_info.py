"""``gpt2fast info`` says what the checkpoint is and what would run it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import _C, LLM
from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.cli import main
from support.model_grid import BASE, PRUNED

Make = Callable[..., tuple[Path, Any]]


def test_json(make_checkpoint: Make, capsys: pytest.CaptureFixture[str]) -> None:
    path, model = make_checkpoint(**BASE)
    assert main(["info", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    parameters = model.num_parameters()
    assert facts["path"] == str(path)
    assert facts["num_parameters"] == parameters
    assert facts["bytes_by_dtype"] == {"F32": 4 * parameters}
    assert facts["config"]["n_embd"] == BASE["n_embd"]
    assert facts["head_size"] == 16
    assert facts["tokenizer_size"] is None
    assert facts["isa"] == _C.isa()
    assert facts["isa"] in facts["available_isas"] == _C.available_isas()
    # 2 layers of a key and a value of width 48 in float32, for 96 positions.
    per_token = 2 * 2 * 48 * 4
    memory = facts["memory"]
    # 211 tokens make 14 panels of 16.
    padding = (14 * 16 - 211) * 48 * 4
    assert memory == {
        "quantization": None,
        "weights": 4 * parameters + padding,
        "weights_by_format": {"float32": 4 * parameters + padding},
        "read_per_step": 4 * parameters + padding - 96 * 48 * 4,  # all but the positions
        "kv_cache_dtype": "float32",
        "kv_cache_per_token": per_token,
        "kv_cache_full_context": 96 * per_token,
        "kv_cache_per_token_by_dtype": {
            "float32": per_token,
            "bfloat16": per_token // 2,
            "int8": per_token // 4 + 2 * 2 * 3 * 4,  # and a scale for each of 3 heads
        },
    }


@pytest.mark.parametrize(
    ("options", "formats", "cache"),
    [
        (["--dtype", "bfloat16"], {"float32", "bfloat16"}, "bfloat16"),
        (["--quantization", "int8"], {"float32", "int8-g64"}, "bfloat16"),
        (["--quantization", "int4"], {"float32", "int8-g64", "int4-g64"}, "bfloat16"),
        (["--quantization", "int8", "--kv-cache-dtype", "int8"], {"float32", "int8-g64"}, "int8"),
    ],
)
def test_formats(
    make_checkpoint: Make,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    formats: set[str],
    cache: str,
) -> None:
    path, _ = make_checkpoint(**BASE)
    assert main(["info", str(path), "--json", *options]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    assert memory["weights_by_format"].keys() == formats
    assert memory["kv_cache_dtype"] == cache
    arguments = dict(zip(options[::2], options[1::2], strict=True))
    names = {name[2:].replace("-", "_"): value for name, value in arguments.items()}
    with LLM(path, **names) as llm:  # type: ignore[arg-type]
        runner: Any = llm._open_runner()
        assert memory["weights"] == runner.weight_bytes
        assert memory["read_per_step"] == runner.bytes_per_step
    assert main(["info", str(path), *options]) == 0
    text = capsys.readouterr().out
    assert f"KV cache    {cache}, " in text
    assert all(name in text for name in formats)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--dtype", "float16"], "--dtype float16 is not available"),
        (["--quantization", "fp8"], "--quantization fp8-g64 is not available on the cpu"),
        (["--quantization", "int2"], "--quantization int2 is not known"),
        (["--quantization", "int8", "--dtype", "bfloat16"], "exclude each other"),
        (["--kv-cache-dtype", "fp8"], "--kv-cache-dtype fp8 is not known"),
    ],
)
def test_formats_that_are_not_there(
    make_checkpoint: Make, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    path, _ = make_checkpoint(**BASE)
    assert main(["info", str(path), *options]) == 2
    assert says in capsys.readouterr().err
    assert main(["generate", str(path), "--prompt-ids", "1", *options]) == 2
    assert says in capsys.readouterr().err


def test_text(make_checkpoint: Make, capsys: pytest.CaptureFixture[str]) -> None:
    path, model = make_checkpoint(**BASE)
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    for text in (
        str(path),
        "2 layers, width 48, 3 heads of 16, MLP 192",
        "96 tokens",
        f"{model.num_parameters():,}",
        "tie_word_embeddings on, scale_attn_weights on, scale_attn_by_inverse_layer_idx off",
        "gelu_new",
        _C.isa(),
        "768 B a token, 73.7 kB for a full context",
    ):
        assert text in out


def test_layers_of_different_shapes(make_checkpoint: Make, capsys: Any) -> None:
    path, _ = make_checkpoint(**PRUNED)
    assert main(["info", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(each["n_head"], each["n_inner"]) for each in facts["layers"]] == list(PRUNED["layers"])
    assert facts["head_size"] == 16
    with LLM(path) as llm:
        runner: Any = llm._open_runner()
        assert facts["memory"]["weights"] == runner.weight_bytes
        assert facts["memory"]["read_per_step"] == runner.bytes_per_step
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "3 layers, width 48, 1 to 3 of 3 heads of 16, MLP 7 to 192" in out


def test_instruction_set_that_cannot_be_had(
    make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = make_checkpoint(**BASE)
    capsys.readouterr()  # transformers' progress, where this is the first test that makes it
    monkeypatch.setenv("GPT2FAST_FORCE_ISA", "mmx")
    assert main(["info", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpt2fast: error: ")
    assert "mmx" in error


def compressed(path: Path, **changes: Any) -> Path:
    """``path`` with the report of a compression, as ``gpt2fast compress`` writes it."""
    with open_checkpoint(path) as checkpoint:
        size = checkpoint.num_bytes
    quality = {
        "protocol": {"predicted_tokens": 4064}, "perplexity_before": 20.0,
        "perplexity_after": 20.16, "percent": 0.8, "percent_low": 0.5, "percent_high": 1.1,
    }  # fmt: skip
    report = {
        "original": {"name": "own/model", "bytes": 4_000_000},
        "artifact": {"bytes": size},
        "recipe": {"passes": [{"prune": {}}, {"quantize": {}}]},
        "quality": quality,
        "speed": {"speedup": 3.251, "low": 3.1, "high": 3.4},
        "text": {"origin": "held-out.txt"},
        **changes,
    }
    (path / "report.json").write_text(json.dumps(report))
    return path


def test_a_compressed_model(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = compressed(Path(shutil.copytree(make_checkpoint(**BASE)[0], tmp_path / "copy")))
    assert main(["info", str(path)]) == 0
    out, err = capsys.readouterr()
    for text in (
        "compressed  own/model by prune + quantize: 4.0 MB to 0.3 MB",
        "verified    perplexity 20.000 to 20.160, +0.80 % (95 % interval +0.50 to +1.10 %) on 4064 "
        "tokens of held-out.txt",
        "speed       3.25x the original in float32 (3.10 to 3.40)",
    ):
        assert text in out
    assert "report.json" not in err
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"]["quality"]["percent"] == 0.8


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"artifact": {"bytes": 5}}, "its figures are of another model"),
        ({"quality": 5}, "report.json: is damaged"),
        ({"speed": {"speedup": "fast"}}, "report.json: is damaged"),
    ],
)
def test_a_report_that_cannot_be_shown(
    make_checkpoint: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    says: str,
) -> None:
    path = Path(shutil.copytree(make_checkpoint(**BASE)[0], tmp_path / "copy"))
    assert main(["info", str(compressed(path, **changes))]) == 0
    out, err = capsys.readouterr()
    assert "verified" not in out
    assert says in err
    for other in ("[]", '{"of": "another tool"}'):
        (path / "report.json").write_text(other)
        assert main(["info", str(path)]) == 0
        assert "report.json" not in capsys.readouterr().err


def test_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx_ir")
    pytest.importorskip("onnxruntime")
    out = str(tmp_path / "out")
    assert main(["export", "demo", out, "--precision", "int8"]) == 0
    capsys.readouterr()
    assert main(["info", out, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["runner"] == "onnx"
    assert facts["report"]["export"]["precision"] == "int8"
    assert main(["info", out]) == 0
    assert "graph       int8 for target ort, " in capsys.readouterr().out
    assert main(["info", out, "--dtype", "bfloat16"]) == 2
    assert "is an ONNX export, which is what it is" in capsys.readouterr().err
    (tmp_path / "out" / "model.onnx.data").write_bytes(b"")
    assert main(["info", out]) == 2
    assert "model.onnx.data has 0 bytes, its report says " in capsys.readouterr().err
