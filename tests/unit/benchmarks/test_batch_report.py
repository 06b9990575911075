"""What `benchmarks batch` holds against a batch under kills: each line once, and as undisturbed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from benchmarks.batching.kills import Killed, Ran

CALM: dict[str, list[Any]] = {f"r-{number}": [[200, f"text {number}"]] for number in range(3)}


def wrong(struck: dict[str, list[Any]]) -> list[str]:
    def ran(answers: dict[str, list[Any]]) -> Ran:
        return Ran("completed", {"total": 3, "completed": 3, "failed": 0}, answers, 1.0)

    killed = Killed(3, ran(CALM), ran(struck), Counter(), 0, 0, Counter(), [])
    return [line.partition(":")[0] for line in killed.wrong()]


def test_equal_runs_are_right() -> None:
    assert wrong(dict(CALM)) == []


def test_missing_doubled_and_different_lines_are_told() -> None:
    struck = {"r-1": CALM["r-1"] * 2, "r-2": [[200, "other"]], "stranger": [[200, "x"]]}
    assert wrong(struck) == ["r-0", "r-1", "r-2", "stranger"]
