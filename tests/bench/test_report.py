"""The report is one page of sound HTML that fetches nothing and takes names as text."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from bench.records import measure, record_of

from gpt2fast.bench import results
from gpt2fast.bench.charts import make_charts
from gpt2fast.bench.palette import make_styles
from gpt2fast.bench.report import make_report


def report_of(record: dict[str, Any]) -> str:
    return make_report(record, make_charts(record), make_styles(record))


class Checker(HTMLParser):
    """Counts open tags; collects what would be fetched."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        links = [str(value) for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.fetched += [link for link in links if not link.startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_whole_and_fetches_nothing() -> None:
    record = record_of(*measure((1, 8)))
    html = report_of(record)
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert checker.fetched == []
    assert not {"script", "link", "img", "iframe"} & set(checker.tags)
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html
    assert "tiny <b>" not in html
    assert "tiny &lt;b&gt;" in html
    for figure in ("gpt2fast float32", "openvino int8", "250.0 tok/s", "Latency against context"):
        assert figure in html


def test_names_in_the_report_are_no_markup() -> None:
    record = record_of(*measure((1, 8)))
    name = "</title><script>alert(1)</script>\"'><img src=x onerror=y>"
    for row in record["rows"]:
        row["model"] = name
    record["command"] = record["machine"]["processor"] = name
    html = report_of(record)
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert not {"script", "img"} & set(checker.tags)


def test_a_chart_of_the_report_takes_the_width_of_the_page() -> None:
    record = record_of(*measure((1, 8)))
    html = report_of(record)
    widths = re.findall(r'viewBox="0 0 (\d+) \d+"[^>]* role="img"', html)
    assert widths.count("1280") == html.count('class="panels alone"') > 0
    assert ".charts { display: grid; grid-template-columns: minmax(0, 1fr)" in html, (
        "one below the other"
    )


def test_every_marker_tells_its_figures() -> None:
    html = report_of(record_of(*measure((1, 8))))
    assert "<title>openvino int8: 8 batch size, 2000 tokens a second</title>" in html
    assert "<title>limit, gpt2fast float32</title>" in html


def test_ids_are_unique_on_the_page() -> None:
    html = report_of(record_of(*measure((1, 8))))
    ids = Counter(re.findall(r'\bid="([^"]+)"', html))
    assert ids
    assert max(ids.values()) == 1, "figures would draw with each other's markers"
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', html)) == set(ids)


def test_models_as_they_are_stored_are_drawn() -> None:
    record = record_of(*measure((1, 8)))
    for row in record["rows"]:
        row["format"] = "stored"
    assert "openvino stored" in report_of(record)


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_what_draws_it_the_record_is_written(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.html").write_text("of an earlier result")
    monkeypatch.setattr(results, "find_spec", lambda name: None if name == missing else object())
    said: list[str] = []
    paths = results.write_results(record_of(*measure()), tmp_path, said.append)
    assert {path.name for path in paths} == {each.name for each in tmp_path.iterdir()}
    assert {path.name for path in paths} == {"rows.json", "rows.csv"}
    assert said == [f"the report and plots need {missing}: pip install 'gpt2fast[bench]'"]
