"""Renders a report as one HTML file without scripts or external resources, for phones too, light and dark."""

from __future__ import annotations

from datetime import datetime
from html import escape
from importlib.resources import files

from relais_common.insights.report import Report
from relais_kpi.rendering import words
from relais_kpi.rendering.contents import Page
from relais_kpi.rendering.elements import prose
from relais_kpi.rendering.sections import (
    batches,
    distributions,
    over_time,
    tables,
    tiles,
    time_spent,
)
from relais_kpi.rendering.summary import beside, findings, objectives, sentences


def render_page(page: Page, now: datetime) -> str:
    """Return the whole file."""
    report = page.report
    title = f"Relais, {words.moment(report.since)} to {words.moment(report.until)} UTC"
    parts = [_head(report), _look(report, now)]
    if report.total.requests:
        parts += [
            tiles(report),
            over_time(page),
            distributions(page),
            time_spent(page),
            *tables(page),
        ]
    if report.batches:
        parts.append(batches(report))
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + f"\n{_foot(report, now)}\n</main>\n</body>\n</html>\n"
    )


def _head(report: Report) -> str:
    span = words.length(report.until - report.since)
    return (
        "<header><h1>What Relais served</h1>"
        f'<p class="when">{words.moment(report.since)} to {words.moment(report.until)} UTC ({span}), '
        f"{beside(report)}</p>"
        f'<p class="summary">{prose(" ".join(sentences(report)))}</p></header>'
    )


def _look(report: Report, now: datetime) -> str:
    found = findings(report, now)
    if not found:
        if not report.total.requests:
            return ""
        return '<ul class="look well"><li><b>Nothing asks to be looked at.</b></li></ul>'
    items = (f"<li><b>{prose(one.what)}</b><span>{prose(one.advice)}</span></li>" for one in found)
    return f'<ul class="look" aria-label="Worth a look">{"".join(items)}</ul>'


def _foot(report: Report, now: datetime) -> str:
    known = "never" if report.rolled_up_to is None else f"{words.moment(report.rolled_up_to)} UTC"
    terms = (
        (
            "Succeeded",
            "completed, of those completed, failed or expired; not counted: cancelled, mistakes of clients (4xx)",
        ),
        (
            "Goodput",
            f"completed within all objectives ({objectives(report.objectives)}), of the same",
        ),
        ("TTFT", "from acceptance, the queue included, to the first token; of completed requests"),
        ("TPOT", "time per output token after the first; of completed requests"),
        ("Tokens/s", "over the whole period, not while something ran"),
    )
    listed = "".join(f"<dt>{escape(term)}</dt><dd>{escape(said)}</dd>" for term, said in terms)
    return (
        f"<footer><dl>{listed}</dl><p>Percentiles are within {report.relative_error:.0%} of the exact ones. "
        f"Rolled up: {known}. Written {words.moment(now)} UTC by <code>relais kpi report</code>.</p></footer>"
    )
