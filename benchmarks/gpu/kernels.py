"""The kernels' part: all cases checked by several processes at once, then timed one by one."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gpt2fast.bench.process import WorkerError
from gpu import rows
from gpu.process import ROOT, stream

FOLDER = Path("benchmarks/kernels/triton")
# By what the others rest on; with the processes that check it, and its share of the time.
OPS = {
    "layer_norm": (2, 0.15),
    "linear": (7, 0.4),
    "head": (2, 0.1),
    "attention_decode": (2, 0.15),
    "attention_prefill": (2, 0.13),
    "sample": (1, 0.05),
    "embedding": (1, 0.01),
    "dequantize": (1, 0.01),
    "cache_append": (1, 0.01),
}
_CHECK_SHARE = 0.45  # of the part's time at most
_GRACE_SECONDS = 15.0  # for a case that was begun


def run(recorder: rows.Recorder) -> None:
    """Check everything, which also compiles it, then time it."""
    _verify(recorder, recorder.left() * _CHECK_SHARE)
    shares = [(op, share) for op, (_, share) in OPS.items()]
    for i, (op, share) in enumerate(shares):
        rest = sum(each for _, each in shares[i:])
        seconds = max(recorder.left() - _GRACE_SECONDS, 0.0) * share / rest
        command = [str(FOLDER / f"{op}.py"), "--json", "--seconds", f"{seconds:.1f}"]
        _stream_rows(recorder, op, command, seconds)
    _repeats(recorder)


def _repeats(recorder: rows.Recorder) -> None:
    """How far the two passes of the same figure lie apart."""
    found = sorted(row["again"] for row in recorder.rows if "again" in row)
    if found:
        low, high = (found[round(q * (len(found) - 1))] for q in (0.05, 0.95))
        text = f"{low:.3f} to {high:.3f}, 90 % of {len(found)} figures"
        recorder.add(rows.make_row("second pass over first", "", "", text, low=low, high=high))


def _stream_rows(recorder: rows.Recorder, op: str, command: list[str], seconds: float) -> None:
    if seconds < 5:
        recorder.add(rows.skipped(op, seconds, 5, system="gpt2fast"))
        return
    try:
        stream(command, seconds + _GRACE_SECONDS, lambda found: recorder.add(found["row"]))
    except WorkerError as error:
        recorder.add(rows.make_row(op, system="gpt2fast", status=rows.ERROR, message=str(error)))


def _verify(recorder: rows.Recorder, seconds: float) -> None:
    """A row for each op: cases checked, the worst error."""
    started = time.monotonic()
    jobs = [(op, i, shards) for op, (shards, _) in OPS.items() for i in range(shards)]
    with ThreadPoolExecutor(len(jobs)) as threads:
        found = list(threads.map(lambda job: _verify_shard(job[0], job[1], job[2], seconds), jobs))
    for op in OPS:
        every = [row for job, each in zip(jobs, found, strict=True) if job[0] == op for row in each]
        totals = [row for row in every if row["case"] == "references"]
        for row in every:
            if row not in totals and row["status"] != rows.SKIPPED:
                recorder.add(row)
        checked = sum(row["checked"] for row in totals)
        worst = max((row["worst"] for row in totals), default=0.0)
        text = f"{checked} checked, worst {worst:.2f} of tolerance"
        took = time.monotonic() - started
        fields = {"checked": checked, "worst": worst, "seconds": took}
        recorder.add(rows.make_row("references", op, "", text, **fields))


def _verify_shard(op: str, index: int, count: int, seconds: float) -> list[rows.Row]:
    command = [str(FOLDER / f"{op}.py"), "--json", "--verify", "--shard", f"{index}/{count}"]
    command += ["--seconds", f"{max(seconds - _GRACE_SECONDS, 1.0):.1f}"]
    found: list[rows.Row] = []

    def take(message: dict[str, Any]) -> None:
        found.append(message["row"])

    try:
        stream(command, seconds, take)
    except WorkerError as error:
        case = f"{op} references {index}/{count}"
        found.append(rows.make_row(case, "", "gpt2fast", status=rows.ERROR, message=str(error)))
    return found


def small_run(op: str) -> list[str]:
    """The command that checks one small case of an op, for a sanitizer."""
    return [str(ROOT / FOLDER / f"{op}.py"), "--verify", "--ours", "--first", "1"]
