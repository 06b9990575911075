"""The rate of a batch."""

from __future__ import annotations

from relais_orchestrator.batches.pace import LEAST_S, WINDOW_S, Pace


def test_no_rate_before_there_is_something_to_compare() -> None:
    pace = Pace()
    assert pace.note(0, now_s=0.0) is None
    assert pace.note(10, now_s=LEAST_S / 2) is None
    assert pace.note(20, now_s=LEAST_S) == 20 / LEAST_S


def test_rate_is_of_the_last_minute() -> None:
    pace = Pace()
    for second in range(300):
        pace.note(second * 10, now_s=float(second))
    rates = [
        pace.note(3000 + (second - 300) * 2, now_s=float(second))
        for second in range(300, 301 + int(WINDOW_S))
    ]
    assert (rates[0], rates[-1]) == (10.0, 2.0)


def test_batch_that_stands_still_has_a_rate_of_zero() -> None:
    pace = Pace()
    assert [pace.note(7, now_s=float(second)) for second in range(120)][-1] == 0.0
