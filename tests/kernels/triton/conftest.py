"""Where the Triton kernels run: on an NVIDIA GPU, or with TRITON_INTERPRET=1 on the CPU.

One process does one of the two, since Triton decides when the kernels are defined. `make test` runs
this folder once more with the interpreter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from support.triton_cases import poisoned  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    with poisoned():
        yield


@pytest.fixture(scope="session")
def device() -> torch.device:
    if INTERPRETED:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no GPU; TRITON_INTERPRET=1 runs the kernels on the CPU")
    return torch.device("cuda")


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    if INTERPRETED and request.param == "bfloat16":
        pytest.skip("the interpreter computes bfloat16 wrongly")
    return getattr(torch, request.param)
