"""What `benchmarks attack` holds against an attack: figures that pass a bound, and no others."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.attacking.attacks import ATTACKS
from benchmarks.attacking.report import Found, Memory, spreads, summary, text
from benchmarks.attacking.victim import KINDS, Probe
from benchmarks.attacking.watch import Lag
from relais_testing.scrape import Scraped

CALM = spreads([Probe(number, kind, 0.0, 0.2) for number, kind in enumerate(KINDS)])
MB = 1 << 20


def make_found(**changes: object) -> Found:
    found = Found(
        name="some",
        point="A1",
        sends="This.",
        seconds=10.0,
        before=CALM,
        busy=CALM,
        during=CALM,
        after=CALM,
        errors=Counter(),
        memory={"front-0": Memory(100 * MB, 120 * MB, 110 * MB)},
        settled_s=8.0,
        lag_s={"front-0": 0.01},
        got=Counter({"400": 3}),
        log_bytes=1000,
        series=3,
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def during(seconds: float) -> dict[str, object]:
    return {"during": spreads([Probe(1, "chat", 0.0, seconds)])}


def test_calm_figures_miss_no_bound() -> None:
    assert list(make_found().missed()) == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (during(0.31), "chat p99 310 ms > 300"),
        ({"errors": Counter({"TimeoutError": 2})}, "2 x victim: TimeoutError"),
        ({"memory": {"worker-1": Memory(0, 90 * MB, 31 * MB)}}, "worker-1 kept 31 MB"),
        ({"log_bytes": 11 * MB}, "11 MB of logs"),
        ({"series": 5000}, "5,000 new series of metrics"),
        ({"ended": ["front-0 ended with -9"]}, "front-0 ended with -9"),
    ],
)
def test_a_figure_over_its_bound_is_named(changes: dict[str, object], complaint: str) -> None:
    assert list(make_found(**changes).missed()) == [complaint]


def test_a_victim_may_wait_for_its_fair_share_too() -> None:
    busy = spreads([Probe(1, "chat", 0.0, 0.5)])
    assert make_found(**during(0.59), busy={**CALM, **busy}).bound_ms("chat") == pytest.approx(600)


def test_what_redis_holds_is_shown_and_not_judged() -> None:
    found = make_found(memory={"redis": Memory(0, 90 * MB, 90 * MB)})
    assert list(found.missed()) == []
    assert "redis 0 -> 90 -> 90" in text(found)


def test_the_report_names_the_attack_and_what_it_missed() -> None:
    found = make_found(**during(9.0))
    assert "MISSED chat p99 9,000 ms" in text(found)
    assert "some" in summary([found])


def test_every_attack_says_what_it_sends() -> None:
    assert [one.name for one in ATTACKS.values() if not one.sends.endswith(".")] == []


def test_a_loop_s_lag_is_that_of_the_time_in_between() -> None:
    def lag(fast: int, slow: int) -> Lag:
        name = "relais_event_loop_lag_seconds"
        lines = [
            f"# TYPE {name} histogram",
            f'{name}_bucket{{le="0.01"}} {fast}',
            f'{name}_bucket{{le="5.0"}} {fast + slow}',
            f'{name}_bucket{{le="+Inf"}} {fast + slow}',
        ]
        return Lag(Scraped("\n".join(lines) + "\n"))

    assert lag(9, 1).since(lag(5, 1)) == 0.01
    assert lag(9, 2).since(lag(5, 1)) == 5.0
    assert lag(5, 1).since(lag(5, 1)) == 0.0
