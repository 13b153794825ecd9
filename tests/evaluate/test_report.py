"""``evaluate``: one report from files and models, equal to its parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2fast.evaluate as package
from gpt2fast import LLM
from gpt2fast.errors import OptionError
from gpt2fast.evaluate import (
    compare_logits,
    evaluate,
    make_protocol,
    paired_comparison,
    read_text,
    token_nats,
)
from support.model_grid import BASE

Make = Callable[..., tuple[Path, Any]]
ROOT = Path(__file__).resolve().parents[2]
WIKITEXT = ROOT.parent / "shared" / "data" / "wikitext-2" / "test.txt"
CODE = ROOT / "gpt2fast" / "engine" / "engine.py"  # looks like what the bundled model was fed


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    """int4 beside float32, on Python that the bundled model never saw."""
    seen: list[tuple[str, int, int]] = []
    report = evaluate(
        "demo",
        text=CODE,
        reference="demo",
        quantization="int4",
        context=128,
        max_tokens=1500,
        num_threads=1,
        progress=lambda *step: seen.append(step),
    )
    assert seen[-1][1:] == (report["perplexity"]["windows"],) * 2
    return report


def test_report_is_made_of_the_public_functions(small: dict[str, Any]) -> None:
    assert json.loads(json.dumps(small, allow_nan=False)) == small
    with LLM("demo", num_threads=1) as exact, LLM("demo", quantization="int4") as model:
        text = read_text(
            CODE, exact.tokenizer, make_protocol("stride", 512, 128, None), max_tokens=1500
        )
        found = compare_logits(exact.logits, model.logits, text.windows)
        np.testing.assert_array_equal(found.nats, token_nats(model.logits, text.windows))
    both = paired_comparison(found.reference_nats, found.nats, text.groups)
    assert small["comparison"] == both.as_dict()
    assert small["perplexity"]["perplexity"] == pytest.approx(np.exp(found.nats.mean()))
    nats = small["reference_perplexity"]["nats_per_token"]
    assert nats == pytest.approx(found.reference_nats.mean(), rel=1e-12)  # added in another order
    assert small["kl"]["mean"] == pytest.approx(found.kl.mean())
    assert small["top1_agreement"]["mean"] == found.agrees.mean()
    assert small["model"] == {"name": "demo", "num_threads": 1, "quantization": "int4"}
    assert small["reference"] == {"name": "demo"}
    assert small["perplexity"]["protocol"] == "stride"


def test_int4_is_close_and_not_equal(small: dict[str, Any]) -> None:
    assert 0 < small["kl"]["low"] < small["kl"]["high"] < 0.1
    assert 0.8 < small["top1_agreement"]["mean"] < 1.0
    lost = small["comparison"]
    assert lost["percent_low"] < lost["percent"] < lost["percent_high"] < 5.0


@pytest.mark.parametrize("protocol", ["transformers", "lm-eval"])
def test_real_text_under_the_usual_protocols(protocol: str) -> None:
    if not WIKITEXT.is_file():
        pytest.skip("WikiText-2 is not beside the checkout")
    plain = {"transformers": "wikitext-rows", "lm-eval": "wikitext"}[protocol]
    with LLM("demo", num_threads=1) as llm:
        report = evaluate(
            llm, text=WIKITEXT, protocol=protocol, detokenizer=plain, context=64, max_tokens=1000
        )
    found = report["perplexity"]
    assert found["sha256"].startswith("d790b833ef8c")
    assert 100 < found["perplexity"] < 2000
    assert 2.0 < found["bits_per_byte"] < 5.0
    assert ("word_perplexity" in found) == (protocol == "lm-eval")


def test_the_given_llm_stays_open(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("import os\nimport sys\n" * 20)
    with LLM("demo", num_threads=1) as llm:
        first = evaluate(llm, text=file, reference=llm)
        assert first["comparison"]["percent"] == first["kl"]["mean"] == 0.0
        assert first["top1_agreement"]["mean"] == 1.0
        assert len(llm.logits([1, 2])) == 2


def test_what_cannot_be_measured(make_checkpoint: Make, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("some text")
    bare, _ = make_checkpoint(**BASE)
    with pytest.raises(OptionError, match="nothing to measure"):
        evaluate("demo")
    with pytest.raises(OptionError, match="has no tokenizer"):
        evaluate(bare, text=file)
    with pytest.raises(OptionError, match="has no tokenizer"):
        evaluate("demo", text=file, reference=bare)
    with pytest.raises(OptionError, match="resamples = 0"):
        evaluate("demo", text=file, resamples=0)


def test_models_with_different_tokenizers(
    make_checkpoint: Make, tmp_path: Path, gpt2_tokenizer_files: Path
) -> None:
    import shutil

    path, _ = make_checkpoint(**{**BASE, "vocab_size": 50_257, "n_embd": 3})
    other = tmp_path / "other"
    shutil.copytree(path, other)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(gpt2_tokenizer_files / name, other / name)
    file = tmp_path / "text"
    file.write_text("some text")
    with pytest.raises(OptionError, match="have different tokenizers"):
        evaluate("demo", text=file, reference=other)


def test_every_public_name_is_there() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert sorted(package.__all__) == package.__all__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing
