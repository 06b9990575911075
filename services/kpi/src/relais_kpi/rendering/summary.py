"""Summarises a report in sentences, and lists what needs attention. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from relais_common.insights.figures import Figures, Goodput, Latency
from relais_common.insights.report import ObjectivesView, Report
from relais_kpi.rendering import words

STALE = timedelta(hours=2)
WORSE = 1.25
GOOD_SUCCESS = 0.99
GOOD_GOODPUT = 0.95
LARGE_KEY = 0.5
LARGE_WASTE = 0.05
LARGE_QUEUE = 0.5
LARGE_CANCELS = 0.1
LARGE_MISTAKES = 0.1
FEW = 50
"""Number of requests below which a share or a 99th percentile says little."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that needs attention: what it is, and what can be done."""

    what: str
    advice: str


def beside(report: Report) -> str:
    """Return what the period is compared with, in words."""
    span = words.length(report.until - report.since)
    if report.total.requests and not report.previous.requests:
        return f"no data of the {span} before to compare with"
    return f"beside the {span} before"


def sentences(report: Report) -> list[str]:
    """Return the summary as one paragraph."""
    total, previous = report.total, report.previous
    span = words.length(report.until - report.since)
    if not total.requests:
        told = [f"No requests ended in {_these(span)}."]
        if report.rolled_up_to is not None and report.rolled_up_to > report.until:
            told.append("Whole hours that are over count; `--until 0h` takes in the one under way.")
        return told
    told = [_traffic(report, span), _success(total)]
    if total.ttft is not None:
        told.append(
            f"Half of the answers began within {words.duration(total.ttft.p50_s)}, and 99 % within "
            f"{words.duration(total.ttft.p99_s)}{_against(total.ttft, previous.ttft)}."
        )
    elif total.e2e is not None:
        told.append(
            f"Half of the requests took no longer than {words.duration(total.e2e.p50_s)}, and 99 % no longer than "
            f"{words.duration(total.e2e.p99_s)}{_against(total.e2e, previous.e2e)}."
        )
    if total.goodput is not None and total.goodput.share is not None:
        told.append(
            f"{words.share(total.goodput.share)} met all objectives ({objectives(report.objectives)})"
            + (f"; missed: {why}." if (why := _missed(total.goodput)) else ".")
        )
    if report.peak_hours:
        peak = report.peak_hours[0]
        told.append(
            f"The busiest hour began at {words.moment(peak.hour)} UTC, with {words.count(peak.requests)} requests."
        )
    if len(report.keys) > 1:
        first = report.keys[0]
        told.append(
            f"The key with the most, {first.key_id}, had {words.share(first.requests_share)} of them."
        )
    return told


def findings(report: Report, now: datetime) -> list[Finding]:
    """Return what needs attention, most urgent first; empty if all is well."""
    found: list[Finding] = []
    total = report.total
    if report.rolled_up_to is None or report.rolled_up_to < min(report.until, now) - STALE:
        known = (
            "Traces have never been rolled up."
            if report.rolled_up_to is None
            else f"Traces were last rolled up at {words.moment(report.rolled_up_to)} UTC."
        )
        advice = "Run `relais kpi rollup`: what was recorded since is missing here."
        found.append(Finding(known, advice))
    if total.requests < FEW:
        return found
    if total.success_rate is not None and total.success_rate < GOOD_SUCCESS and total.causes:
        first = total.causes[0]
        found.append(
            Finding(
                f"{words.share(1 - total.success_rate)} of the requests did not succeed, mostly {first.cause} "
                f"({words.count(first.requests)}).",
                "Look for the cause in the workers' logs and under `relais admin dead`.",
            )
        )
    found += _latency_findings(report)
    if (
        total.goodput is not None
        and total.goodput.share is not None
        and total.goodput.share < GOOD_GOODPUT
    ):
        found.append(
            Finding(
                f"{words.share(1 - total.goodput.share)} missed an objective: {_missed(total.goodput)}.",
                "The tables below show which models and keys.",
            )
        )
    tokens = total.output_tokens
    if tokens and total.wasted_tokens / tokens > LARGE_WASTE:
        found.append(
            Finding(
                f"{words.share(total.wasted_tokens / tokens)} of the generated tokens were for nobody.",
                "Cancelled and failed requests, and restarts, spend them: look at who cancels, and why.",
            )
        )
    if total.mistaken / total.requests > LARGE_MISTAKES:
        first = total.mistakes[0]
        found.append(
            Finding(
                f"{words.share(total.mistaken / total.requests)} of the requests were mistakes of their clients, "
                f"mostly {first.cause} ({words.count(first.requests)}).",
                "`relais kpi report --by key` shows whose; the workers' lines `job_failed` name the requests.",
            )
        )
    if total.cancelled / total.requests > LARGE_CANCELS:
        found.append(
            Finding(
                f"{words.share(total.cancelled / total.requests)} of the requests were cancelled.",
                f"Of {words.share(total.abandoned / total.cancelled)} the client had gone: such clients often wait too"
                " long for the first token.",
            )
        )
    if len(report.keys) > 1 and report.keys[0].requests_share > LARGE_KEY:
        largest = report.keys[0]
        found.append(
            Finding(
                f"{largest.key_id} had {words.share(largest.requests_share)} of the requests.",
                "A limit or a lower priority keeps room for the others (`relais keys`).",
            )
        )
    return found


def _latency_findings(report: Report) -> list[Finding]:
    total, previous = report.total, report.previous
    found: list[Finding] = []
    for name, now, before in (
        ("The first token", total.ttft, previous.ttft),
        ("The whole answer", total.e2e, previous.e2e),
    ):
        if now is None or before is None or min(now.count, before.count) < FEW:
            continue
        if now.p99_s > WORSE * before.p99_s:
            found.append(
                Finding(
                    f"{name} came later: 99th percentile {words.duration(now.p99_s)}, "
                    f"{words.duration(before.p99_s)} before.",
                    "Compare queue time and the time per token: the one that grew says whether room or speed is short.",
                )
            )
    late = report.objectives.ttft_s
    if total.queue is None or total.ttft is None or late is None or total.ttft.p99_s <= late:
        return found
    if total.queue.p99_s > LARGE_QUEUE * total.ttft.p99_s:
        found.append(
            Finding(
                "Waiting in the queue makes up much of the slow first tokens (99th percentile "
                f"{words.duration(total.queue.p99_s)} of {words.duration(total.ttft.p99_s)}).",
                "More workers at the peak hours would shorten it.",
            )
        )
    return found


def missed(goodput: Goodput) -> list[tuple[str, float]]:
    """Return why requests missed objectives, each as a share of the judged ones; empty if all met them."""
    if goodput.missed is None:
        return []
    shares = (
        ("first token (TTFT)", goodput.missed.ttft),
        ("per token (TPOT)", goodput.missed.tpot),
        ("end to end", goodput.missed.e2e),
        ("failed or expired", goodput.missed.not_completed),
    )
    return [(why, share) for why, share in shares if share]


def _missed(goodput: Goodput) -> str:
    return ", ".join(f"{why} {words.share(share)}" for why, share in missed(goodput))


def objectives(wanted: ObjectivesView) -> str:
    """Return the objectives in words: `first token within 1.00 s, ...`."""
    parts = [
        f"{name} {words.tick(bound)}"
        for name, bound in (
            ("first token within", wanted.ttft_s),
            ("each further token within", wanted.tpot_s),
            ("whole answer within", wanted.e2e_s),
        )
        if bound is not None
    ]
    return ", ".join(parts) or "none"


def _these(span: str) -> str:
    return "this hour" if span == "1 hour" else f"these {span}"


def _traffic(report: Report, span: str) -> str:
    total, previous = report.total, report.previous
    text = f"In {_these(span)}, {words.count(total.requests)} requests ended"
    if not previous.requests:
        return f"{text}; there is no data of the {span} before to compare with."
    ratio = total.requests / previous.requests
    if abs(ratio - 1) < 0.005:
        return f"{text}, as many as in the {span} before."
    more = "more" if ratio > 1 else "fewer"
    return f"{text}, {words.share(abs(ratio - 1))} {more} than in the {span} before."


def _success(total: Figures) -> str:
    if total.success_rate is None:
        if not total.mistaken:
            return "All of them were cancelled."
        return "None of them could succeed: all were cancelled, or mistakes of their clients."
    text = f"{words.share(total.success_rate)} succeeded"
    if total.causes:
        first = total.causes[0]
        text += f"; the most frequent cause of failure was {first.cause} ({words.count(first.requests)})"
    if total.mistaken:
        first = total.mistakes[0]
        text += f"; {words.count(total.mistaken)} were mistakes of clients, mostly {first.cause}"
    if total.cancelled:
        text += f"; {words.count(total.cancelled)} were cancelled"
        if total.abandoned:
            text += f", {words.count(total.abandoned)} of them as the client had gone"
    return text + "."


def _against(now: Latency, before: Latency | None) -> str:
    if before is None:
        return ""
    ratio = now.p99_s / before.p99_s if before.p99_s else 1.0
    if abs(ratio - 1) < 0.05:
        return ", about as before"
    return f" ({words.change(now.p99_s, before.p99_s)} against the time before)"
