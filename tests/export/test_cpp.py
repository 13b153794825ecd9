"""The example in C++, compiled against a release of onnxruntime: ORT_HOME, or the system's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("onnx_ir")
onnxruntime = pytest.importorskip("onnxruntime")

from gpt2fast import LLM, SamplingParams  # noqa: E402
from gpt2fast.export import ExportOptions, export  # noqa: E402

SOURCE = Path(__file__).resolve().parents[2] / "docs" / "onnx" / "generate.cpp"
HEADER = "onnxruntime_cxx_api.h"
PLACES = [
    *([Path(os.environ["ORT_HOME"]) / "include"] if "ORT_HOME" in os.environ else []),
    *(Path(f"/usr{local}/include/onnxruntime{rest}") for local in ("", "/local")
      for rest in ("", "/core/session")),
]  # fmt: skip


def test_it_generates_the_tokens_of_the_model(tmp_path: Path) -> None:
    include = next((place for place in PLACES if (place / HEADER).is_file()), None)
    libraries = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    if include is None or not libraries or shutil.which("g++") is None:
        pytest.skip(f"no {HEADER}: set ORT_HOME to a release of onnxruntime")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / name).symlink_to(libraries[-1])
    program = tmp_path / "generate"
    subprocess.run(
        [
            "g++",
            "-std=c++17",
            "-I",
            include,
            SOURCE,
            "-L",
            tmp_path,
            "-lonnxruntime",
            "-o",
            program,
        ],
        check=True,
    )
    export("demo", tmp_path / "out", ExportOptions("int8", num_threads=1))
    prompt = [454, 843, 63, 1135, 8, 522, 307]
    done = subprocess.run(
        [program, tmp_path / "out" / "model.onnx", "30", *map(str, prompt)],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    llm = LLM("demo", device="cpu", quantization="int8", num_threads=1)
    params = SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True)
    want = llm.generate([prompt], params)[0].outputs[0].token_ids
    assert [int(token) for token in done.stdout.split()] == list(want)
