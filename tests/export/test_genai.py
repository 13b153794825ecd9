"""onnxruntime-genai runs an export and draws the tokens of the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
genai = pytest.importorskip("onnxruntime_genai")

from gpt2fast import LLM, SamplingParams  # noqa: E402
from gpt2fast.export import ExportOptions, export  # noqa: E402
from support.model_grid import BASE  # noqa: E402

Make = Callable[..., tuple[Path, Any]]
PROMPT, NEW = "def read_lines(path):", 50


@pytest.mark.parametrize(
    ("precision", "target"), [("fp32", "ort"), ("int4", "ort"), ("fp32", "portable")]
)
def test_the_same_tokens(precision: str, target: str, tmp_path: Path) -> None:
    export("demo", tmp_path / "out", ExportOptions(precision, target, num_threads=1))
    quantization = precision if precision == "int4" else None
    llm = LLM("demo", device="cpu", quantization=quantization, num_threads=1)
    params = SamplingParams(temperature=0.0, max_tokens=NEW, ignore_eos=True)
    want = llm.generate(PROMPT, params)[0]
    model = genai.Model(str(tmp_path / "out"))
    tokenizer = genai.Tokenizer(model)
    ids = tokenizer.encode(PROMPT)
    assert ids.tolist() == want.prompt_token_ids
    length = len(ids) + NEW
    options = genai.GeneratorParams(model)
    options.set_search_options(max_length=length, min_length=length, do_sample=False)
    generator = genai.Generator(model, options)
    generator.append_tokens(np.array(ids, np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    assert list(generator.get_sequence(0))[len(ids) :] == list(want.outputs[0].token_ids)
    assert tokenizer.decode(list(want.outputs[0].token_ids)) == want.outputs[0].text


def test_the_cache_is_shared_where_the_graph_can(make_checkpoint: Make, tmp_path: Path) -> None:
    for name, fields, shared in (("shared", {}, True), ("grown", {"n_embd": 60}, False)):
        path, _ = make_checkpoint(**{**BASE, **fields})
        export(path, tmp_path / name, ExportOptions(num_threads=1))
        found = json.loads((tmp_path / name / "genai_config.json").read_text())
        assert found["search"]["past_present_share_buffer"] is shared


def test_layers_that_differ_in_heads_have_no_place_in_its_configuration(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    path, _ = make_checkpoint(**BASE, layers=[[2, 100], [1, 33]])
    export(path, tmp_path / "out", ExportOptions(num_threads=1))
    assert not (tmp_path / "out" / "genai_config.json").exists()
