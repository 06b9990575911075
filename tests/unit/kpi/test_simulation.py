"""Simulated traffic: as much as was asked for, the same for the same seed, and like traffic."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from relais_kpi.simulation.traffic import simulate

UNTIL = datetime(2026, 11, 28, 12, tzinfo=UTC)


def test_the_same_seed_gives_the_same_traces() -> None:
    def made(seed: int) -> list[object]:
        return list(simulate(traces=200, days=3, seed=seed, until=UNTIL))

    assert made(1) == made(1)
    assert made(1) != made(2)


@pytest.mark.parametrize(("traces", "days"), [(1, 1), (999, 7), (10, 30)])
def test_there_are_as_many_as_were_asked_for_each_with_a_name(traces: int, days: int) -> None:
    made = list(simulate(traces=traces, days=days, seed=1, until=UNTIL))

    assert len(made) == len({one.channel_id for one in made}) == traces
    first = (UNTIL - timedelta(days=days)).timestamp()
    assert all(first <= one.accepted_at_s <= UNTIL.timestamp() for one in made)
    assert all(one.finished_at_s == pytest.approx(one.accepted_at_s + one.e2e_s) for one in made)


def test_days_are_busier_than_nights_and_lengths_have_a_tail() -> None:
    made = list(simulate(traces=5000, days=7, seed=1, until=UNTIL))

    hours = Counter(datetime.fromtimestamp(one.accepted_at_s, UTC).hour for one in made)
    assert hours[14] > 3 * hours[5]
    tokens = sorted(one.output_tokens for one in made if one.output_tokens)
    assert tokens[-1] > 10 * tokens[len(tokens) // 2]
    assert {"completed", "failed", "cancelled"} <= {one.status for one in made}
