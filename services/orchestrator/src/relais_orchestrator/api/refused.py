"""Limits each key's refused bodies at this process, because their parsing takes time from everybody."""

from __future__ import annotations

import time
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from relais_common.jobs.errors import EndedOtherwise, RateLimited, RelaisError
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.api.callers import caller_of
from relais_orchestrator.api.table import SUBMITTING
from relais_orchestrator.http.key_buckets import KeyBuckets

BODIES_PER_MINUTE = 16
"""Number of refused bodies of maximum size that a key may send per minute; smaller ones count by bytes."""

LEAST_BYTES = 4096
"""Minimum charge for a refused request, because it costs time even without a body."""

LEAST_LARGEST_BYTES = 1 << 20
"""Used as the largest size if `MAX_BODY_BYTES` is smaller, so that a key may send enough small bodies."""

CHARGED = frozenset((400, 404, 413, 415))


class Refused:
    """A token bucket of refused bytes for each key.

    For a key with `requests_per_minute`, that number also bounds its refused requests, whatever their size.
    """

    def __init__(self, max_body_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = BODIES_PER_MINUTE * max(max_body_bytes, LEAST_LARGEST_BYTES)
        self._buckets = KeyBuckets(self._per_minute, clock)

    def check(self, caller: Caller) -> None:
        """Raise RateLimited if too many of the key's requests were refused recently."""
        wait_s = self._buckets.of(caller.key_id).wait_s(self._cost(caller, 0))
        if wait_s > 0:
            raise RateLimited(
                "too many requests of this key were refused: correct them, and try again later",
                retry_after_s=wait_s,
            )

    def charge(self, caller: Caller, body_bytes: int) -> None:
        """Charge a refused body to this key."""
        self._buckets.charge(caller.key_id, self._cost(caller, body_bytes))

    def _cost(self, caller: Caller, body_bytes: int) -> float:
        requests = caller.may.requests_per_minute
        share = 0.0 if requests is None else self._per_minute / requests
        return max(body_bytes, LEAST_BYTES, share)

    @property
    def middleware(self) -> Middleware:
        """Middleware; must run inside the one that turns errors into responses."""

        @web.middleware
        async def charge_refused(request: web.Request, handler: Handler) -> web.StreamResponse:
            resource = request.match_info.route.resource
            if resource is None or resource.canonical not in SUBMITTING:
                return await handler(request)
            caller = caller_of(request)
            self.check(caller)
            try:
                return await handler(request)
            except RelaisError as error:
                if error.status in CHARGED and not isinstance(error, EndedOtherwise):
                    self.charge(caller, request.content.total_bytes)
                raise

        return charge_refused
