"""Writing a result: the record, the report, and the plots."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpt2fast.bench.charts import make_charts
from gpt2fast.bench.output import FILES, REPORT
from gpt2fast.bench.palette import make_styles
from gpt2fast.bench.plots import write_plots
from gpt2fast.bench.report import make_report
from gpt2fast.bench.rows import write_record
from gpt2fast.files.atomic import staged_file

_DRAWN_WITH = ("matplotlib", "jinja2")


def write_results(record: dict[str, Any], out: Path, say: Callable[[str], None]) -> list[Path]:
    """All files, in place of those of an earlier result; without matplotlib or jinja2, which
    ``say`` is told, the record alone. Returns their paths. Raises OptionError, naming the file,
    where one cannot be written."""
    paths = write_record(record, out)
    missing = [name for name in _DRAWN_WITH if find_spec(name) is None]
    if missing:
        say(f"the report and plots need {' and '.join(missing)}: pip install 'gpt2fast[bench]'")
    else:
        charts, look = make_charts(record), make_styles(record)
        report = out / REPORT
        with staged_file(report) as stage:
            stage.write_text(make_report(record, charts, look), encoding="utf-8")
        paths += [report, *write_plots(charts, look, _caption(record), out)]
    for earlier in {out / name for name in FILES} - set(paths):
        earlier.unlink(missing_ok=True)
    return paths


def _caption(record: dict[str, Any]) -> str:
    machine = record["machine"]
    return (
        f"{machine['processor']}, {machine['cpus']} CPUs, {machine['isa']}; gpt2fast "
        f"{record['gpt2fast']}, {record['date']}, medians of {record['options']['rounds']} rounds"
    )
