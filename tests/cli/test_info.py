"""``gpt2fast info`` says what the checkpoint is and what would run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import _C
from gpt2fast.cli import main
from model_grid import BASE

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
    assert facts["memory"] == {
        "weights": 4 * parameters,
        "kv_cache_per_token": per_token,
        "kv_cache_full_context": 96 * per_token,
    }


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


def test_instruction_set_that_cannot_be_had(
    make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = make_checkpoint(**BASE)
    monkeypatch.setenv("GPT2FAST_FORCE_ISA", "mmx")
    assert main(["info", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpt2fast: error: ")
    assert "mmx" in error
