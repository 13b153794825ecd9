"""What of this machine the process may use: its memory and CPUs, or its control group's if less."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

_GROUPS, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def physical_memory() -> int:
    """Bytes of memory this process may use: the machine's, or its control group's if less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_number(group / "memory.max") for group in _groups("")]
    limits += [_number(group / "memory.limit_in_bytes") for group in _groups("memory")]
    return min([machine, *(limit for limit in limits if limit is not None)])


def num_cpus() -> int:
    """CPUs that this process may use, hardware threads counted."""
    return max(1, min(len(_affinity()), _quota()))


def default_num_threads() -> int:
    """Physical cores that this process may use: a second thread on a core shares its memory
    bandwidth and vector units, and slows the barriers down."""
    return max(1, min(len({_core(cpu) for cpu in _affinity()}), _quota()))


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _core(cpu: int) -> tuple[str, str]:
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        package = (topology / "physical_package_id").read_text()
        return (topology / "core_id").read_text(), package
    except OSError:  # not every system tells
        return str(cpu), ""


def _quota() -> int:
    """CPUs that the control groups allow, rounded up; a huge number where there is no limit."""
    found = [_cpus(*_words(group / "cpu.max")[:2]) for group in _groups("")]
    found += [
        _cpus(*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us"))
        for group in _groups("cpu")
    ]
    return min(found, default=1 << 20)


def _cpus(quota: str = "max", period: str = "") -> int:
    try:
        return -(-int(quota) // int(period)) if int(quota) > 0 else 1 << 20
    except (ValueError, ZeroDivisionError):
        return 1 << 20


def _groups(controller: str) -> Iterator[Path]:
    """Directories of this process's control groups, from the root inwards: of version 2 for "", of
    version 1 for the name of a controller. In a container the root is the container's own."""
    root = _MOUNT / controller
    yield root
    try:
        lines = _GROUPS.read_text().splitlines()
    except OSError:  # no control groups here
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            parts = Path(path).parts[1:]
            yield from (root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:  # no such control group
        return []


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdigit() else None  # "max": no limit


def processor_name() -> str:
    """The CPU's own name for itself, or the architecture's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
