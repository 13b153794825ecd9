"""What the machine can do at most, measured between the runs that are held against it."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
from functools import cache
from pathlib import Path
from typing import Any

from gpt2fast import _C
from gpt2fast.host import processor_name

# A buffer of four times the last cache is read from memory; less than this is no measurement.
_LEAST_MEGABYTES, _MOST_MEGABYTES = 128, 2048

# Systems that store half precision compute in one of these; no instruction of its own is measured.
_ARITHMETIC = ("float32", "bfloat16", "int8", "int4", "int3")


def read_bandwidth(threads: int) -> float:
    """Bytes per second that ``threads`` threads read from memory now."""
    return statistics.median(_C.measure_read_bandwidth(threads, _buffer_megabytes(), 3))


@cache
def _buffer_megabytes() -> int:
    last = 0
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            last = max(last, int(file.read_text().strip().removesuffix("K")) // 1024)
    return min(max(4 * last, _LEAST_MEGABYTES), _MOST_MEGABYTES)


def arithmetic_peak(fmt: str, threads: int) -> float | None:
    """Operations per second (a multiply-add is two) that ``threads`` threads reach in registers.

    None for a format whose arithmetic is not measured. The best of several passes: the first ones
    of new threads may share a core, and nothing makes a pass faster than the machine is.
    """
    if fmt not in _ARITHMETIC:
        return None
    return max(_C.measure_arithmetic_peak(fmt, threads, 8))


def machine() -> dict[str, Any]:
    """The processor's own name for itself, CPUs that may be used, memory and operating system."""
    try:
        memory: int | None = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = None
    has_affinity = hasattr(os, "sched_getaffinity")
    return {
        "processor": processor_name(),
        "cpus": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "memory_bytes": memory,
        "system": f"{platform.system()} {platform.release()}",
        "isa": _C.isa(),
    }


def available_memory() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None
