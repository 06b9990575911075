"""Logs refused requests (4xx), so that operators can find what a client complains about."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from relais_common.jobs.errors import ErrorInfo
from relais_orchestrator.http.key_buckets import KeyBuckets

log = structlog.get_logger(__name__)

LINES_PER_MINUTE_PER_KEY = 60
LINES_PER_MINUTE = 600
MAX_SHOWN_PARAM = 200


class RefusalLog:
    """Writes one line for a refusal, up to a number per minute for each key and for all.

    Requests without a valid key share one key's number. Messages are not logged: they may quote a request.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._of_key = KeyBuckets(LINES_PER_MINUTE_PER_KEY, clock)
        self._of_all = KeyBuckets(LINES_PER_MINUTE, clock)
        self._left_out = 0

    def note(
        self, info: ErrorInfo, *, request_id: str, key_id: str | None, path: str | None
    ) -> None:
        """Log the refusal, or count it for the next line, whose `left_out` says how many were not logged."""
        for buckets, key in ((self._of_key, key_id or ""), (self._of_all, "")):
            if buckets.of(key).wait_s(1) > 0:
                self._left_out += 1
                return
        self._of_key.charge(key_id or "", 1)
        self._of_all.charge("", 1)
        left_out, self._left_out = self._left_out, 0
        log.info(
            "request_refused",
            status=info.status,
            code=info.code,
            param=None if info.param is None else info.param[:MAX_SHOWN_PARAM],
            key_id=key_id,
            request_id=request_id,
            path=path,
            left_out=left_out,
        )
