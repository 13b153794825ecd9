"""Memory and CPUs that the process may use: the machine's, or its control group's."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2fast import host
from gpt2fast.errors import OptionError


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file system of control groups, with nothing in it."""
    (tmp_path / "self").write_text("4:memory:/a/b\n3:cpu,cpuacct:/a\n0::/x/y\n")
    monkeypatch.setattr(host, "_MOUNT", tmp_path)
    monkeypatch.setattr(host, "_GROUPS", tmp_path / "self")
    monkeypatch.setattr(host, "_affinity", lambda: set(range(8)))
    return tmp_path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "file",
    ["memory.max", "x/memory.max", "x/y/memory.max"]
    + [f"memory/{group}memory.limit_in_bytes" for group in ("", "a/", "a/b/")],
)
def test_memory(groups: Path, file: str) -> None:
    machine = host.physical_memory()
    assert machine > 10**7
    for text in ("max", "9223372036854771712", "not a number"):
        put(groups / file, f"{text}\n")
        assert host.physical_memory() == machine
    put(groups / file, "5000000\n")
    assert host.physical_memory() == 5_000_000


@pytest.mark.parametrize("group", ["", "x/", "x/y/"])
def test_cpus_of_version_2(groups: Path, group: str) -> None:
    assert host.num_cpus() == 8
    put(groups / f"{group}cpu.max", "max 100000\n")
    assert host.num_cpus() == 8
    put(groups / f"{group}cpu.max", "150000 100000\n")
    assert host.num_cpus() == 2
    assert host.default_num_threads() <= 2


@pytest.mark.parametrize("group", ["cpu/", "cpu/a/"])
def test_cpus_of_version_1(groups: Path, group: str) -> None:
    put(groups / f"{group}cpu.cfs_period_us", "100000\n")
    put(groups / f"{group}cpu.cfs_quota_us", "-1\n")
    assert host.num_cpus() == 8
    put(groups / f"{group}cpu.cfs_quota_us", "300000\n")
    assert host.num_cpus() == 3


def test_training_is_refused_beyond_the_memory_of_the_group(groups: Path) -> None:
    pytest.importorskip("torch")
    from gpt2fast.train.memory import check_memory

    check_memory(10**6, on_cpu=True)
    put(groups / "memory.max", "5000000\n")
    with pytest.raises(OptionError, match=r"needs 16\.0 MB of memory, this .* has 5\.0 MB"):
        check_memory(10**6, on_cpu=True)
