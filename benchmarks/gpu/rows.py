"""Rows of the suite: what they hold, the file each part keeps them in, the table at the end."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from gpt2fast.files.atomic import staged_file

Row = dict[str, Any]
OK, WRONG, ERROR, SKIPPED = "ok", "wrong", "error", "skipped"

_MESSAGE_CHARACTERS = 2000
_TABLE_CHARACTERS = 11_000  # a terminal's last page is what is read of a long run
_PROBLEM_CHARACTERS, _MOST_PROBLEMS = 240, 14
_MOST_NAMES = 5
_PACKAGES = ("gpt2fast", "torch", "triton", "transformers", "numpy")


def make_row(
    case: str,
    at: str = "",
    system: str = "",
    text: str = "",
    status: str = OK,
    message: str = "",
    **fields: Any,
) -> Row:
    """One figure.

    ``case`` and ``system`` name its line of the table, ``at`` and ``text`` are its cell there;
    times in ``fields`` are seconds, rates bytes or operations a second.
    """
    found = {"case": case, "at": at, "system": system, "status": status, "text": text}
    if message:
        found["message"] = message[-_MESSAGE_CHARACTERS:]
    return found | fields


def describe(error: BaseException) -> str:
    """Kind and text of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_MESSAGE_CHARACTERS]


class Recorder:
    """The rows of one part, written to ``gpu_<part>.json`` after each, and the time it has left."""

    def __init__(self, part: str, out: Path, header: dict[str, Any], seconds: float) -> None:
        self.part, self.rows = part, list[Row]()
        self._file, self._header = out / f"gpu_{part}.json", header
        self.end = time.monotonic() + seconds
        self._write()

    def left(self) -> float:
        """Seconds until this part must be over."""
        return self.end - time.monotonic()

    def add(self, row: Row) -> None:
        """Keep a row, on disk too, and print it."""
        self.rows.append(row)
        self._write()
        cells = (row["case"], row["system"], row["at"], row["text"])
        note = "" if row["status"] == OK else f"{row['status']}: {row.get('message', '')[:300]}"
        print(f"[{self.part}]", *filter(None, (*cells, note)), flush=True)

    def case(self, name: str, needs: float, run: Callable[[], None], system: str = "") -> None:
        """Run a case if ``needs`` seconds are left, else record that it was skipped; an exception
        becomes a row, and the rest goes on."""
        if self.left() < needs:
            self.add(skipped(name, self.left(), needs, system=system))
            return
        try:
            run()
        except Exception as error:
            self.add(make_row(name, system=system, status=ERROR, message=describe(error)))

    def _write(self) -> None:
        content = json.dumps({**self._header, "part": self.part, "rows": self.rows}, indent=1)
        with staged_file(self._file) as stage:
            stage.write_text(content + "\n", encoding="utf-8")


def skipped(case: str, left: float, needs: float, at: str = "", system: str = "") -> Row:
    """The row of a case for which there was no time."""
    message = f"{max(left, 0):.0f} s were left of the part's time; it needs about {needs:.0f}"
    return make_row(case, at, system, status=SKIPPED, message=message)


def header(command: Sequence[str]) -> dict[str, Any]:
    """What must be known to repeat the run: command, date, device, driver and versions.

    Asks the first NVIDIA GPU, which must be there.
    """
    import torch

    device = torch.cuda.get_device_properties(0)
    return {
        "command": " ".join(command),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "device": device.name,
        "capability": f"{device.major}.{device.minor}",
        "multiprocessors": device.multi_processor_count,
        "memory_bytes": device.total_memory,
        "l2_bytes": getattr(device, "L2_cache_size", None),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpus": os.cpu_count(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = found.stdout.split()
    return lines[0] if lines else None


def has_failed(rows: Iterable[Row]) -> bool:
    """Whether a check failed: a wrong result, or something of our own that did not run."""
    ours = ("gpt2fast", "check")
    return any(
        row["status"] == WRONG or (row["status"] == ERROR and row["system"].startswith(ours))
        for row in rows
    )


def table(parts: Mapping[str, Sequence[Row]]) -> str:
    """All rows: a line for each case and system, then what went wrong, the most telling last.

    Where it would be too long, the first lines are left out; the files have them.
    """
    lines = [line for part, rows in parts.items() for line in _lines(part, rows)]
    problems = [line for part, rows in parts.items() for line in _problems(part, rows)]
    counts = {s: sum(row["status"] == s for rows in parts.values() for row in rows)
              for s in (OK, WRONG, ERROR, SKIPPED)}  # fmt: skip
    end = "\n".join([*problems[-_MOST_PROBLEMS:], ", ".join(f"{n} {s}" for s, n in counts.items())])
    kept: list[str] = []
    room = _TABLE_CHARACTERS - len(end)
    for line in reversed(lines):
        room -= len(line) + 1
        if room < 0:
            kept.append(f"... {len(lines) - len(kept)} lines more in the files")
            break
        kept.append(line)
    return "\n".join([*reversed(kept), end])


def _lines(part: str, rows: Sequence[Row]) -> list[str]:
    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["status"] == OK:
            where = cells.setdefault((row["case"], row["system"]), [])
            where.append(f"{row['at']} {row['text']}".strip())
    return [
        f"{part[:3]} {' '.join(filter(None, key))}: {' | '.join(texts)}"
        for key, texts in cells.items()
    ]


def _problems(part: str, rows: Sequence[Row]) -> list[str]:
    """Skipped cases first, then errors, wrong results last; what is alike in one line."""
    found = sorted(
        (row for row in rows if row["status"] != OK),
        key=lambda row: (SKIPPED, ERROR, WRONG).index(row["status"]),
    )
    alike: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        alike.setdefault((row["status"], row.get("message", "")), []).append(row)
    lines = []
    for (status, message), group in alike.items():
        names = [" ".join(filter(None, (row["case"], row["system"], row["at"]))) for row in group]
        named = ", ".join(names[:_MOST_NAMES])
        named += f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        line = f"{status.upper()} {part} {named}: {' '.join(message.split())}"
        if len(line) > _PROBLEM_CHARACTERS:  # a traceback's reason stands at its end
            half = _PROBLEM_CHARACTERS // 2
            line = f"{line[:half]} ... {line[-half:]}"
        lines.append(line)
    return lines
