"""optimum loads an export and generates the tokens of the model (`make test-slow`, whose
environment has the transformers that optimum-onnx takes)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx_ir")
optimum: Any = pytest.importorskip("optimum.onnxruntime")

from transformers import AutoTokenizer  # noqa: E402

from gpt2fast import LLM, SamplingParams  # noqa: E402
from gpt2fast.export import ExportOptions, export  # noqa: E402

PROMPTS, NEW = ["def read_lines(path):", "import"], 60


@pytest.mark.parametrize("bound", [False, True], ids=["plain", "bound"])
@pytest.mark.parametrize(
    ("precision", "target"),
    [("fp32", "ort"), ("int8", "ort"), ("int4", "ort"), ("fp32", "portable")],
)
def test_the_same_tokens(precision: str, target: str, bound: bool, tmp_path: Path) -> None:
    """Alone, and with floats left-padded in a batch; integers are compared with the same graph, as
    between kernels they round activations to either side of a tie."""
    out = tmp_path / "out"
    export("demo", out, ExportOptions(precision, target, num_threads=1))
    is_exact = precision == "fp32"
    llm = LLM("demo" if is_exact else out, device="cpu", num_threads=1)
    params = SamplingParams(temperature=0.0, max_tokens=NEW, ignore_eos=True)
    want = [list(llm.generate(each, params)[0].outputs[0].token_ids) for each in PROMPTS]
    model = optimum.ORTModelForCausalLM.from_pretrained(out, use_io_binding=bound)
    tokenizer = AutoTokenizer.from_pretrained(out, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    batch = [(PROMPTS, want)] if is_exact else []
    for prompts, wanted in [([PROMPTS[0]], want[:1]), ([PROMPTS[1]], want[1:]), *batch]:
        given = tokenizer(prompts, return_tensors="pt", padding=True)
        found = model.generate(
            **given, max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=None
        )
        assert found[:, given.input_ids.shape[1] :].tolist() == wanted


def test_the_script_in_the_documentation(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "export.md"
    script = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    export("demo", tmp_path / "gpt2-onnx", ExportOptions(num_threads=1))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    params = SamplingParams(temperature=0.0, max_tokens=40)
    want = LLM("demo", device="cpu", num_threads=1).generate(PROMPTS[0], params)[0]
    assert done.stdout.strip() == (PROMPTS[0] + want.outputs[0].text).strip()
