"""Errors as clients see them."""

from __future__ import annotations

import pytest

from relais_common.jobs import errors
from relais_common.jobs.errors import (
    EndedOtherwise,
    ErrorInfo,
    InvalidRequest,
    QueueFull,
    RelaisError,
    UpstreamRefused,
)


def subclasses(kind: type[RelaisError]) -> list[type[RelaisError]]:
    return [kind, *(one for direct in kind.__subclasses__() for one in subclasses(direct))]


OURS = [
    kind
    for kind in subclasses(RelaisError)
    # These two are told their status.
    if kind.__module__ == errors.__name__ and kind not in (EndedOtherwise, UpstreamRefused)
]


@pytest.mark.parametrize("kind", OURS)
def test_every_error_has_the_four_fields_of_openai_and_a_status(kind: type[RelaisError]) -> None:
    error = kind("what happened", param="messages.0")
    assert (error.info.message, error.info.param) == ("what happened", "messages.0")
    assert error.info.code
    assert 400 <= error.info.status <= 599
    at_fault = error.info.type in ("server_error", "timeout_error")
    assert at_fault == (error.info.status >= 500)


def test_every_error_says_when_it_is_raised() -> None:
    assert [kind for kind in OURS if not (kind.__doc__ or "").strip()] == []


def test_error_says_how_long_to_wait() -> None:
    assert QueueFull("full", retry_after_s=2.5).retry_after_s == 2.5


def test_code_of_an_invalid_request_may_be_more_precise() -> None:
    assert InvalidRequest("m", code="context_length_exceeded").info.code == (
        "context_length_exceeded"
    )
    assert InvalidRequest("m").info.code == "invalid_value"


def test_info_never_shows_what_is_behind_the_error() -> None:
    error = errors.StoreUnavailable("the queue cannot be reached")
    error.__cause__ = ValueError("secret detail")
    assert "secret" not in str(error.info)
    assert "secret" not in str(error)


def test_another_end_is_told_in_its_own_words() -> None:
    info = ErrorInfo("too long", "invalid_request_error", "prompt", "context_length_exceeded", 400)
    assert EndedOtherwise(info).info == info


def test_error_info_without_more_is_a_server_error() -> None:
    assert ErrorInfo("m") == ErrorInfo("m", "server_error", None, None, 500)
