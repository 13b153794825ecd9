"""The scripts in the documentation, run as they stand there (optimum's: ``test_optimum.py``)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

from gpt2fast import LLM, SamplingParams
from gpt2fast.export import ExportOptions, export

PROMPT = "def read_lines(path):"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"


def test_the_script_gives_the_text_of_the_model(tmp_path: Path) -> None:
    script = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    export("demo", tmp_path / "out", ExportOptions(num_threads=1))
    done = subprocess.run(
        [sys.executable, "-W", "error", "script.py", "out", PROMPT, "30"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    params = SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True)
    want = LLM("demo", device="cpu", num_threads=1).generate(PROMPT, params)[0].outputs[0].text
    assert done.stdout.rstrip("\n") == (PROMPT + want).rstrip("\n")


def test_the_script_for_genai_gives_the_text_of_the_model(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai")
    script = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[2]
    export("demo", tmp_path / "gpt2-onnx", ExportOptions(num_threads=1))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    with LLM("demo", device="cpu", num_threads=1) as llm:
        assert llm.tokenizer is not None
        count = 100 - len(llm.tokenizer.encode(PROMPT).ids)
        text = llm.generate(PROMPT, SamplingParams(temperature=0.0, max_tokens=count))
    assert done.stdout.strip() == (PROMPT + text[0].outputs[0].text).strip()
