"""The model card is Markdown that its fields cannot turn into something else."""

from __future__ import annotations

from typing import Any

import pytest

from gpt2fast.compress.report.markdown import code, code_block, inline
from gpt2fast.compress.report.model_card import model_card

HOSTILE = "a\n---\n# b <script>alert(1)</script> [x](http://y) `c` | d \x1b[31m\u202e"


def report(name: str) -> dict[str, Any]:
    weights = {"bytes": 10**6, "parameters": 1000, "weights_sha256": "ab"}
    return {
        "original": {"name": name, "revision": name, **weights},
        "artifact": weights,
        "quality": {
            "perplexity_before": 10.0,
            "perplexity_after": 10.1,
            "percent": 1.0,
            "percent_low": 0.5,
            "percent_high": 1.5,
            "top1_agreement": 0.9,
            "kl_nats_per_token": 0.01,
            "protocol": {
                "text": name, "predicted_tokens": 1000, "windows": 4, "window_tokens": 256
            },
        },
        "speed": {
            "original": 100.0, "compressed": 200.0, "speedup": 2.0, "low": 1.9, "high": 2.1,
            "rounds": 5,
        },
        "date": "2030-01-01",
        "versions": {"gpt2fast": "0", "torch": "0"},
        "command": f"gpt2fast compress '{name}'",
        "machine": {"processor": name, "cpus": 2},
        "budget": {"verified": 1},
        "search": [],
        "recipe": {"passes": [{"quantize": {"format": name}}]},
        "text": {
            "origin": name, "calibration_tokens": 1, "selection_tokens": 1,
            "written_by_the_model": False,
        },
        "coverage": {
            "uncompressed": [{"name": name, "shape": [2], "format": "float32", "bytes": 8}],
            "compressed_bytes": 1,
            "uncompressed_bytes": 8,
        },
    }  # fmt: skip


def test_fields_are_no_markup() -> None:
    card, plain = model_card(report(HOSTILE), "bias"), model_card(report("plain"), "bias")
    assert not set("\x1b\u202e") & set(card)
    found, expected = (
        [line for line in text.splitlines() if line.startswith("#")] for text in (card, plain)
    )
    assert found[1:] == expected[1:]
    assert card.splitlines().count("---") == 2
    html = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True})
    rendered = html.render(card.split("---\n", 2)[2])
    assert "<script" not in rendered
    assert 'href="http://y"' not in rendered
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in rendered


@pytest.mark.parametrize("name", ["plain", HOSTILE, "a: b", "owner/name", 'x"\ny: z', "1.0"])
def test_front_matter(name: str) -> None:
    yaml = pytest.importorskip("yaml")
    head = model_card(report(name), "bias").split("---\n")[1]
    base = yaml.safe_load(head).pop("base_model", None)
    assert base in (name, None)
    assert yaml.safe_load(head).keys() <= {"base_model", "library_name", "pipeline_tag", "tags"}


def test_markdown() -> None:
    assert inline("my_model *x* <b> a|b\n# c\x1b") == r"my\_model \*x\* \<b\> a\|b \# c"
    assert code("plain") == "`plain`"
    assert code("a`b``c\n|") == "```a`b``c \\|```"
    assert code("`a") == "`` `a ``"
    assert code("") == "` `"
    assert code_block("a 'b\n---\nc'\td") == "    a 'b\n    ---\n    c' d"
