"""The arithmetic peaks against the core's clock: a whole number of instructions a cycle.

These tests look at a clock."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from gpt2fast import _C

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="knows x86's instructions"
)

PATIENCE = 15.0  # seconds to wait for a quiet moment of a machine that others use, too

# Operations per cycle that CPUs may reach: lanes times two, times what they begin in a cycle.
FMA_256 = (16, 32)  # ports of 128 bits; of 256
FMA_512 = (32, 64)  # one port, or two of half the width; two
VNNI_512 = (128, 256)
# A register of products is 64 operations: 4 instructions (8-bit weights), of which 3 need a port
# that multiplies, or 2 of which one does; of such ports there are one or two, of 128 or 256 bits.
INT8_256 = (16, 32, 64 / 1.5, 48, 64)
INT4_256 = (30, 60, 64 / (2.0625 / 3), 64 / (1.0625 / 2))
PER_CYCLE: dict[str, dict[str, Sequence[float]]] = {
    "generic": {"float32": (8, 12, 16)},
    "avx2": {"float32": FMA_256, "int8": INT8_256, "int4": INT4_256},
    "avx512": {"float32": FMA_512, "int8": INT8_256, "int4": INT4_256},
    "avx512_vnni": {"float32": FMA_512, "int8": VNNI_512, "int4": VNNI_512},
}
CASES = [(isa, fmt) for isa in _C.available_isas() for fmt in PER_CYCLE.get(isa, {})]

MEASURE = """
import json, sys
from gpt2fast import _C
print(json.dumps(eval(sys.argv[1], {"_C": _C})))
"""


def measured(isa: str, call: str) -> list[list[float]]:
    """What a call of _C gives in a process that is made to use ``isa``."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, call],
        env={**os.environ, "GPT2FAST_FORCE_ISA": isa}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return list(json.loads(done.stdout))


def per_cycle(isa: str, fmt: str) -> float:
    """Operations per cycle in the passes in which the clock stood still and nobody interrupted."""
    passes = measured(isa, f"_C.measure_peak_per_cycle({fmt!r}, 500)")
    quiet = [2 * rate / (a + b) for rate, a, b in passes if abs(a / b - 1) < 0.01]
    if len(quiet) < 20:
        return 0.0
    return statistics.quantiles(quiet, n=10)[-1]


@pytest.mark.parametrize(("isa", "fmt"), CASES)
def test_the_peak_is_a_whole_number_of_instructions_a_cycle(isa: str, fmt: str) -> None:
    allowed = PER_CYCLE[isa][fmt]
    deadline = time.monotonic() + PATIENCE
    best = 0.0
    while time.monotonic() < deadline:
        best = max(best, found := per_cycle(isa, fmt))
        assert found <= 1.1 * max(allowed)
        if any(abs(found / number - 1) <= 0.1 for number in allowed):
            return
    pytest.fail(f"{isa} {fmt}: {best:.1f} operations a cycle, none of {allowed}")


@pytest.mark.skipif("avx512_vnni" not in _C.available_isas(), reason="needs AVX-512 VNNI")
def test_int8_is_four_times_as_fast_as_float32_at_most() -> None:
    deadline = time.monotonic() + PATIENCE
    ratio = 0.0
    while time.monotonic() < deadline:
        ratio = per_cycle("avx512_vnni", "int8") / max(per_cycle("avx512_vnni", "float32"), 1.0)
        if 1.9 < ratio <= 4.2:
            return
    pytest.fail(f"int8 is {ratio:.2f} times as fast as float32")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_two_threads_reach_twice_as_much_at_most() -> None:
    one = two = 0.0
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not 1.8 <= two / (one or 1) <= 2.1:
        one = max(one, *_C.measure_arithmetic_peak("float32", 1, 20))
        two = max(two, *_C.measure_arithmetic_peak("float32", 2, 20))
    assert 0.9 * one <= two <= 2.1 * one
    if two < 1.8 * one:
        pytest.skip(f"two threads reach {two / one:.2f} times one's: not two idle cores")
