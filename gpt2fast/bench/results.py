"""Writing a result: the record, the report, and the plots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt2fast.bench.charts import make_charts
from gpt2fast.bench.output import FILES, REPORT
from gpt2fast.bench.palette import make_styles
from gpt2fast.bench.plots import write_plots
from gpt2fast.bench.report import make_report
from gpt2fast.bench.rows import write_record
from gpt2fast.errors import MissingDependencyError
from gpt2fast.files.atomic import staged_file


def write_results(record: dict[str, Any], out: Path, say: Callable[[str], None]) -> list[Path]:
    """All files, in place of those of an earlier result; without matplotlib, which ``say`` is told,
    all but the plots. Returns their paths. Raises OptionError, naming the file, where one cannot be
    written."""
    charts, look = make_charts(record), make_styles(record)
    paths = write_record(record, out)
    report = out / REPORT
    with staged_file(report) as stage:
        stage.write_text(make_report(record, charts, look), encoding="utf-8")
    paths.append(report)
    try:
        paths += write_plots(charts, look, _caption(record), out)
    except MissingDependencyError as error:
        say(str(error))
    for earlier in {out / name for name in FILES} - set(paths):
        earlier.unlink(missing_ok=True)
    return paths


def _caption(record: dict[str, Any]) -> str:
    machine = record["machine"]
    return (
        f"{machine['processor']}, {machine['cpus']} CPUs, {machine['isa']}; gpt2fast "
        f"{record['gpt2fast']}, {record['date']}, medians of {record['options']['rounds']} rounds"
    )
