"""Goodput is counted exactly for objectives that are steps; others are taken down to one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relais_common.insights.objectives import (
    STEPS_S,
    Objectives,
    cell_of,
    parse_objectives,
    step_below,
)

SOME = st.none() | st.floats(min_value=0, max_value=1e6)
STEP = st.none() | st.sampled_from(STEPS_S)


@given(
    requests=st.lists(
        st.tuples(SOME, SOME, st.floats(min_value=0, max_value=1e6), st.booleans()), max_size=30
    ),
    ttft_s=STEP,
    tpot_s=STEP,
    e2e_s=STEP,
)
def test_requests_in_cells_meet_what_each_of_them_meets(
    requests: list[tuple[float | None, float | None, float, bool]],
    ttft_s: float | None,
    tpot_s: float | None,
    e2e_s: float | None,
) -> None:
    wanted = Objectives(ttft_s=ttft_s, tpot_s=tpot_s, e2e_s=e2e_s)
    cells = Counter(
        cell_of(ttft, tpot, e2e, writes_tokens=writes) for ttft, tpot, e2e, writes in requests
    )

    def meets(duration_s: float | None, bound_s: float | None) -> bool:
        return duration_s is None or bound_s is None or duration_s <= bound_s

    judged = [one[:3] for one in requests if one[3] or e2e_s is not None]
    found = wanted.judge(cells)
    assert found.completed == len(judged)
    assert found.met == sum(
        meets(ttft, ttft_s) and meets(tpot, tpot_s) and meets(e2e, e2e_s)
        for ttft, tpot, e2e in judged
    )
    for at, (bound_s, missed) in enumerate(
        ((ttft_s, found.missed_ttft), (tpot_s, found.missed_tpot), (e2e_s, found.missed_e2e))
    ):
        assert missed == sum(not meets(one[at], bound_s) for one in judged)


def test_objectives_are_written_with_units() -> None:
    found = parse_objectives("ttft=1s, tpot=50ms,e2e=2min")

    assert found == Objectives(ttft_s=1.0, tpot_s=0.05, e2e_s=120.0)


@pytest.mark.parametrize("text", ["1ms", "35ms", "200ms", "1.5s", "30s", "1min", "10min"])
def test_round_objectives_are_steps(text: str) -> None:
    seconds = parse_objectives(f"e2e={text}").e2e_s

    assert seconds in STEPS_S
    assert step_below(seconds) == seconds


def test_others_are_taken_down() -> None:
    assert parse_objectives("ttft=1.99s") == Objectives(ttft_s=1.8)


@pytest.mark.parametrize(
    "text",
    [
        *("", "ttft", "ttft=", "ttft=1", "ttft=1h", "ttft=-1s", "p99=1s", "ttft=1s,ttft=2s"),
        *("e2e=1ns", "ttft=0s", "ttft=1e3s", "ttft=nans", "ttft=infs", f"ttft={'9' * 400}s"),
    ],
)
def test_what_is_no_objective_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"ttft|objectives|duration"):
        parse_objectives(text)
