"""Refusals are logged, and no key can fill the log."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from relais_common.jobs.errors import ErrorInfo
from relais_orchestrator.http.refusal_log import (
    LINES_PER_MINUTE,
    LINES_PER_MINUTE_PER_KEY,
    RefusalLog,
)
from relais_testing.clock import Clock
from relais_testing.plain_logs import use_plain_logs

REFUSED = ErrorInfo("no", "invalid_request_error", "max_tokens", "invalid_value", 400)


@pytest.fixture(autouse=True)
def plain_logs() -> None:
    use_plain_logs()


def refuse(refusals: RefusalLog, key_id: str | None, times: int = 1) -> None:
    for _ in range(times):
        refusals.note(REFUSED, request_id="req-1", key_id=key_id, path="/v1/requests")


def test_lines_of_one_key_are_bounded_and_leave_room_for_others() -> None:
    clock = Clock()
    refusals = RefusalLog(clock)
    with capture_logs() as lines:
        refuse(refusals, "noisy", LINES_PER_MINUTE_PER_KEY + 7)
        refuse(refusals, "other")
        clock.now_s += 60
        refuse(refusals, "noisy")
    assert [line["key_id"] for line in lines] == [
        *["noisy"] * LINES_PER_MINUTE_PER_KEY,
        "other",
        "noisy",
    ]
    assert [line["left_out"] for line in lines[-2:]] == [7, 0]


def test_lines_of_many_keys_are_bounded_together() -> None:
    refusals = RefusalLog(Clock())
    with capture_logs() as lines:
        for number in range(2 * LINES_PER_MINUTE):
            refuse(refusals, f"key-{number}")
    assert len(lines) == LINES_PER_MINUTE


def test_a_long_param_is_cut() -> None:
    refusals = RefusalLog(Clock())
    with capture_logs() as lines:
        refusals.note(
            ErrorInfo("no", param="x" * 4096, status=400), request_id="r", key_id=None, path=None
        )
    assert len(lines[0]["param"]) == 200
