"""Renders a report as CSV: a line for the period, one for the period before, one for each part."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from relais_common.insights.figures import Figures
from relais_common.insights.report import Report

_COUNTS = (
    *(
        "requests",
        "completed",
        "failed",
        "mistaken",
        "cancelled",
        "abandoned",
        "expired",
        "success_rate",
    ),
    "retried",
    *("input_tokens", "output_tokens", "cached_tokens", "wasted_tokens"),
    *("reasoning_tokens", "tool_calls", "images"),
    *("requests_per_s", "input_tokens_per_s", "output_tokens_per_s"),
)
_LATENCIES = ("ttft", "tpot", "e2e", "queue")
_QUANTILES = ("p50_s", "p90_s", "p99_s")
_MISSED = ("ttft", "tpot", "e2e", "not_completed")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def render_csv(report: Report) -> str:
    """Return lines with a header: times in UTC, durations in seconds, shares from 0 to 1, empty if not measured."""
    out = io.StringIO()
    lines = [_line("total", "", report.total, 1.0), _line("previous", "", report.previous, None)]
    lines += [_line(report.by.value, row.name, row.figures, row.share) for row in report.rows]
    writer = csv.DictWriter(out, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _line(part: str, name: str, figures: Figures, share: float | None) -> dict[str, Any]:
    return {
        "part": part,
        # A spreadsheet would take it for a formula.
        "name": f"'{name}" if name.startswith(_FORMULA) else name,
        "share": share,
        **{field: getattr(figures, field) for field in _COUNTS},
        **dict(_latencies(figures)),
        "goodput": None if figures.goodput is None else figures.goodput.share,
        **{f"missed_{name}": _missed(figures, name) for name in _MISSED},
    }


def _missed(figures: Figures, name: str) -> float | None:
    missed = None if figures.goodput is None else figures.goodput.missed
    return None if missed is None else getattr(missed, name)


def _latencies(figures: Figures) -> Iterator[tuple[str, float | None]]:
    for name in _LATENCIES:
        latency = getattr(figures, name)
        for quantile in _QUANTILES:
            yield f"{name}_{quantile}", None if latency is None else getattr(latency, quantile)
