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

from relais_common.insights.batches import BatchFigures, EndedBatches
from relais_common.insights.report import Axis, Report, rows_of
from relais_common.jobs.job import Status
from relais_common.jobs.traces import trace_document
from relais_kpi.rendering import table, words
from relais_kpi.rendering.contents import Page, whole
from relais_kpi.rendering.page import render_page
from relais_kpi.rendering.rows import render_csv
from relais_kpi.rendering.summary import findings, sentences
from relais_kpi.simulation.traffic import simulate
from relais_testing.kpis import DAY, NO_BATCHES, OBJECTIVES, PERIOD, fold_of, report_of
from relais_testing.traces import HOUR_0, make_document

NOW = PERIOD.until
HOSTILE = '<script>alert("x")</script>'
VOID = {"meta"}


@pytest.fixture(scope="module")
def traces() -> list[dict[str, Any]]:
    made = simulate(traces=3000, days=2, seed=5, until=PERIOD.until)
    return [trace_document(one, recorded_at=PERIOD.until) for one in made]


def page_of(
    documents: list[dict[str, Any]],
    time_axis: Axis = Axis.HOUR,
    ended: EndedBatches = NO_BATCHES,
) -> str:
    fold = fold_of(documents)
    page = Page(
        report=report_of(documents, by=Axis.PRIORITY, ended=ended),
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


def test_batches_are_shown_with_what_they_took(traces: list[dict[str, Any]]) -> None:
    one = BatchFigures(
        batch_id="batch_0123456789",
        key_id=HOSTILE,
        model=None,
        endpoint="/v1/completions",
        status="completed",
        requests=50_000,
        completed=49_990,
        failed=10,
        input_tokens=400_000,
        output_tokens=500_000,
        ended_at=HOUR_0,
        duration_s=5400.0,
    )
    ended = EndedBatches((one,) * 25, left_out=5)
    text = shown(report_of(traces, ended=ended))
    assert max(map(len, text.splitlines())) <= 80
    line = next(line for line in text.splitlines() if "...23456789" in line)
    assert " ".join(line.split()).endswith("completed 50,000 10 900,000 1.50 h")
    assert "and 20 smaller ones" in text
    html = page_of(traces, ended=ended)
    assert "batch_0123456789" in html
    assert "and 10 smaller ones" in html
    assert HOSTILE not in html
    assert "BATCH" not in shown(report_of(traces))


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


def test_a_period_of_one_hour_is_told_as_one() -> None:
    report = report_of([])
    report = replace(report, since=report.until - timedelta(hours=1))

    assert sentences(report)[0] == "No requests ended in this hour."


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


def test_the_objective_that_was_missed_is_named() -> None:
    documents = many(80, decode_s=0.2) + many(20, first=100, queue_s=3.0, decode_s=0.2)
    report = report_of(documents)

    for text in (" ".join(sentences(report)), shown(report), page_of(documents)):
        plain = text.replace("\N{NARROW NO-BREAK SPACE}", " ")
        assert re.search(r"first token \(TTFT\)\W.*20\.0 %", plain), plain
    assert "per token (TPOT) " not in " ".join(sentences(report))


def test_mistakes_of_clients_are_shown_apart() -> None:
    mistakes = many(50, first=100, status=Status.FAILED, error_type="bad_thing", error_status=400)
    documents = many(50) + mistakes

    text = shown(report_of(documents))

    assert re.search(r"success rate +100", text)
    assert re.search(r"mistakes of clients +50", text)
    assert "bad_thing" in text
    assert "Mistakes of clients" in page_of(documents)
    assert "mistakes of their clients" in what_is_found(documents)


def test_a_period_with_nothing_before_is_not_compared() -> None:
    alone, compared = many(60), many(60) + many(60, first=100, finished_at=HOUR_0 - DAY)

    for text in (shown(report_of(alone)), page_of(alone)):
        assert "no data of the 24 hours before" in " ".join(text.split())
        assert not re.search("BEFORE|beside|against", text)
    for text in (shown(report_of(compared)), page_of(compared)):
        assert "no data" not in text
        assert re.search("BEFORE|against", text)


def test_the_page_has_no_literal_backtick_and_no_tile_of_nothing() -> None:
    nothing_judged = many(60, status=Status.CANCELLED)
    mistaken = many(60, status=Status.FAILED, error_type="bad_thing", error_status=400)
    for documents in (nothing_judged, mistaken, many(60)):
        html = page_of(documents)
        assert "`" not in html
        assert not re.search(r'<dd class="(value|note)[^"]*">–', html)
    assert "<code>" in page_of(mistaken)


@pytest.mark.parametrize("name", ["m" * 200, "org/a-model-of-twenty-four-b"])
@pytest.mark.parametrize("queue_s", [0.0001, 0.5, 7000.0])
def test_no_label_of_a_chart_is_cut_at_an_edge(name: str, queue_s: float) -> None:
    html = page_of(
        [
            make_document(number, model=name, queue_s=queue_s, output_tokens=2_000_000)
            for number in range(200)
        ]
    )

    pictures = re.findall(r'<svg viewBox="0 0 (\d+) \d+".*?</svg>', html, re.DOTALL)
    assert len(pictures) >= 9
    for picture in re.finditer(r'<svg viewBox="0 0 (\d+) \d+"(.*?)</svg>', html, re.DOTALL):
        labels = re.findall(
            r'<text x="([\d.-]+)" y="[\d.-]+" text-anchor="(\w+)">([^<]*)<', picture[2]
        )
        for x, anchor, label in labels:
            left = float(x) - {"start": 0, "middle": 0.5, "end": 1}[anchor] * len(label) * 6.2
            assert left >= -0.1, label
            assert left + len(label) * 6.2 <= float(picture[1]) + 0.1, label


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
