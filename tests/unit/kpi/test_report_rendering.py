"""Reports as people and programs get them."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from relais_common.insights.report import Axis, Report, rows_of
from relais_common.jobs.job import Status
from relais_common.jobs.traces import trace_document
from relais_kpi.rendering import table, words
from relais_kpi.rendering.contents import Page, whole
from relais_kpi.rendering.page import render_page
from relais_kpi.rendering.rows import render_csv
from relais_kpi.rendering.summary import findings, sentences
from relais_kpi.simulation.traffic import simulate
from relais_testing.kpis import DAY, OBJECTIVES, PERIOD, fold_of, report_of
from relais_testing.traces import HOUR_0, make_document

NOW = PERIOD.until
HOSTILE = '<script>alert("x")</script>'
VOID = {"meta"}


@pytest.fixture(scope="module")
def traces() -> list[dict[str, Any]]:
    made = simulate(traces=3000, days=2, seed=5, until=PERIOD.until)
    return [trace_document(one, recorded_at=PERIOD.until) for one in made]


def page_of(documents: list[dict[str, Any]], time_axis: Axis = Axis.HOUR) -> str:
    fold = fold_of(documents)
    page = Page(
        report=report_of(documents, by=Axis.PRIORITY),
        all_requests=fold.total,
        time_axis=time_axis,
        times=whole(rows_of(fold, time_axis, PERIOD, OBJECTIVES), time_axis, PERIOD, OBJECTIVES),
        models=rows_of(fold, Axis.MODEL, PERIOD, OBJECTIVES),
        keys=rows_of(fold, Axis.KEY, PERIOD, OBJECTIVES),
    )
    return render_page(page, NOW)


def shown(report: Report) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table.render(report, NOW))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("by", Axis)
def test_the_table_fits_80_columns_and_cuts_no_number(
    traces: list[dict[str, Any]], by: Axis
) -> None:
    text = shown(report_of(traces, by=by))

    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in re.sub(r"[\w.-]+…", "", text)
    assert "first token (TTFT)" in text


def test_long_names_are_cut_in_the_table() -> None:
    text = shown(report_of([make_document(1, model="m" * 200, key_id="[bold]k")], by=Axis.KEY))

    assert max(map(len, text.splitlines())) <= 80
    assert "[bold]k" in text


class Reader(HTMLParser):
    """What a browser would take from the file, and whether its tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("time_axis", [Axis.HOUR, Axis.DAY])
def test_the_page_is_one_file_that_asks_for_nothing(
    traces: list[dict[str, Any]], time_axis: Axis
) -> None:
    html = page_of(traces, time_axis)

    reader = read(html)
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    assert not {"src", "href", "xlink:href"} & {name for name, _ in reader.attributes}
    assert "url(" not in html
    assert "http" not in html.replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in html
    assert "nan" not in html.lower().replace("finance", "")
    charts = [value for name, value in reader.attributes if name == "aria-label"]
    assert reader.tags.count("svg") >= 9
    assert all(charts)


def test_names_in_the_page_are_text() -> None:
    html = page_of([make_document(1, model=HOSTILE, key_id=HOSTILE, error_type=HOSTILE)])

    assert "script" not in read(html).tags
    assert "&lt;script&gt;" in html


def test_a_page_about_nothing_says_so() -> None:
    html = page_of([])

    read(html)
    assert "No requests ended in these 24 hours." in html


def test_who_has_asked_within_the_hour_hears_how_to_see_it() -> None:
    report = report_of([])
    later = replace(report, rolled_up_to=report.until + timedelta(minutes=5))
    before = replace(report, rolled_up_to=report.until)

    assert any("--until 0h" in told for told in sentences(later))
    assert not any("--until 0h" in told for told in sentences(before))


def test_csv_has_the_period_the_one_before_and_every_part(traces: list[dict[str, Any]]) -> None:
    report = report_of(traces, by=Axis.KEY)

    lines = list(csv.DictReader(io.StringIO(render_csv(report))))

    assert [one["part"] for one in lines] == ["total", "previous", *["key"] * len(report.rows)]
    assert int(lines[0]["requests"]) == report.total.requests
    assert float(lines[2]["share"]) == report.rows[0].share
    assert report.total.ttft is not None
    assert float(lines[0]["ttft_p99_s"]) == report.total.ttft.p99_s


def test_csv_holds_no_formula() -> None:
    [*_, line] = csv.DictReader(
        io.StringIO(render_csv(report_of([make_document(1, key_id="=1+1")], by=Axis.KEY)))
    )

    assert line["name"] == "'=1+1"


def many(count: int, *, first: int = 0, **fields: Any) -> list[dict[str, Any]]:
    return [make_document(first + number, **fields) for number in range(count)]


def what_is_found(documents: list[dict[str, Any]]) -> str:
    return " ".join(one.what for one in findings(report_of(documents), NOW))


def test_where_all_is_well_nothing_is_pointed_at() -> None:
    assert what_is_found(many(100, queue_s=0.1, decode_s=0.2)) == ""


@pytest.mark.parametrize(
    ("documents", "found"),
    [
        (
            many(90) + many(10, first=100, status=Status.FAILED, error_type="engine_error"),
            "engine_error",
        ),
        (many(60) + many(60, first=100, finished_at=HOUR_0 - DAY, queue_s=0.1), "came later"),
        (many(60, queue_s=4.0), "queue"),
        (many(60, decode_s=60.0), "missed an objective"),
        (many(60) + many(40, first=100, status=Status.CANCELLED), "cancelled"),
        (many(60) + many(40, first=100, status=Status.CANCELLED), "for nobody"),
        (many(60) + many(10, first=100, key_id="other"), "client1"),
    ],
)
def test_what_is_wrong_is_pointed_at(documents: list[dict[str, Any]], found: str) -> None:
    assert found in what_is_found(documents)


def test_old_rollups_are_pointed_at() -> None:
    report = report_of(many(3))
    late = [one.what for one in findings(report, NOW + timedelta(hours=1))]
    assert late == []

    stale = report.__class__(
        **{name: getattr(report, name) for name in report.__slots__}
        | {"rolled_up_to": PERIOD.until - timedelta(hours=5)}
    )
    assert "last rolled up" in findings(stale, NOW)[0].what


def test_the_summary_tells_traffic_success_and_speed(traces: list[dict[str, Any]]) -> None:
    text = " ".join(sentences(report_of(traces)))

    for word in ("requests ended", "succeeded", "Half of the answers began within", "busiest hour"):
        assert word in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((None, "–"), (0.0, "0 s"), (0.00042, "0.42 ms"), (0.42, "420 ms"), (0.9999, "1.00 s")),
        *((4.213, "4.21 s"), (99.97, "100 s"), (125, "2 min 05 s"), (7500, "2 h 05 min")),
    ],
)
def test_durations_have_three_digits(seconds: float | None, text: str) -> None:
    assert words.duration(seconds).replace("\N{NARROW NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(
    ("part", "text"),
    [
        *((1.0, "100 %"), (0.99999, "99.99 %"), (0.982, "98.2 %"), (0.0, "0 %")),
        *((0.00001, "0.01 %"), (None, "–")),
    ],
)
def test_all_and_nothing_are_exact(part: float | None, text: str) -> None:
    assert words.share(part).replace("\N{NARROW NO-BREAK SPACE}", " ") == text
