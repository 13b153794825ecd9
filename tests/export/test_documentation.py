"""The script in the documentation, run as it stands there."""

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

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"


def test_the_script_gives_the_text_of_the_model(tmp_path: Path) -> None:
    script = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    export("demo", tmp_path / "out", ExportOptions(num_threads=1))
    prompt = "def read_lines(path):"
    done = subprocess.run(
        [sys.executable, "-W", "error", "script.py", "out", prompt, "30"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    params = SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True)
    want = LLM("demo", device="cpu", num_threads=1).generate(prompt, params)[0].outputs[0].text
    assert done.stdout.rstrip("\n") == (prompt + want).rstrip("\n")
