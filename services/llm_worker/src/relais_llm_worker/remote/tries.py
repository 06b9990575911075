"""Where one request has been tried, and so where it may be tried next, and when its client is told instead."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from relais_common.jobs.errors import EngineFailed, RelaisError, UpstreamUnavailable
from relais_llm_worker.remote.errors import Busy, Lost, Misplaced, TryFailed, Unreachable
from relais_llm_worker.remote.server import Server

MAX_BUSY = 6
"""Tries in a row that servers may put off."""
MAX_TRIES = 20
"""In a row, whatever became of each: of them all, nothing came."""
LONGEST_PATIENCE_S = 60.0
"""From the first of them; half of the request's deadline where that is sooner, so that its client learns why."""
FIRST_REST_S = 0.5
LONGEST_OWN_REST_S = 8.0


@dataclass(slots=True)
class _Away:
    """What keeps a request from a server: a time, or a look at it that is still to come."""

    until_s: float = 0.0
    looks: int = 0


class Tries:
    """One request's.

    Args:
        max_lost: tries in a row that may end with a server lost.
        deadline_s: of the request.
    """

    def __init__(self, max_lost: int, deadline_s: float) -> None:
        self._max_lost = max_lost
        self._patience_s = min(LONGEST_PATIENCE_S, deadline_s / 2)
        self._busy_since_s = 0.0
        self._away: dict[Server, _Away] = {}
        self._lost = self._busy = self._all = 0
        self._error: RelaisError | None = None

    def fits(self, server: Server) -> bool:
        """Whether this request may go there now."""
        away = self._away.get(server)
        if away is None:
            return True
        return away.looks <= server.looks and asyncio.get_running_loop().time() >= away.until_s

    def refused_by(self, server: Server) -> bool:
        """Whether it will not be asked again, for this request."""
        away = self._away.get(server)
        return away is not None and away.until_s == math.inf

    @property
    def put_off(self) -> bool:
        """Whether a server has asked for a later try."""
        return self.next_s() is not None

    def next_s(self) -> float | None:
        """When the first server comes back by time alone, on the loop's clock."""
        now_s = asyncio.get_running_loop().time()
        times = [away.until_s for away in self._away.values() if now_s < away.until_s < math.inf]
        return min(times, default=None)

    def note_progress(self) -> None:
        """What went before counts no more."""
        self._lost = self._busy = self._all = 0
        self._away.clear()

    def note(self, server: Server, error: TryFailed) -> None:
        """Take in a failed try.

        Raises:
            RelaisError: its client is told, and there is no other try.
        """
        self._all += 1
        self._error = error.passed_on or self._error
        away = self._away[server] = _Away()
        match error:
            case Busy():
                away.until_s = self._back_at_s(error)
            case Misplaced():
                away.until_s = math.inf
            case Lost():
                away.looks = server.looks + 1
                self._lost += 1
                if self._lost >= self._max_lost:
                    raise EngineFailed(
                        f"the model's servers failed at this request {self._lost} times"
                    )
            case Unreachable():
                del self._away[server]
        if self._all >= MAX_TRIES:
            raise self.given_up()

    def _back_at_s(self, busy: Busy) -> float:
        """Return when to ask a busy server again: not before the time that it names; inf for never."""
        now_s = asyncio.get_running_loop().time()
        self._busy += 1
        if self._busy == 1:
            self._busy_since_s = now_s
        if self._busy >= MAX_BUSY:
            raise self.given_up()
        rest_s = busy.retry_after_s
        if rest_s is None:
            rest_s = min(FIRST_REST_S * 2.0 ** (self._busy - 1), LONGEST_OWN_REST_S)
        back_at_s = now_s + rest_s
        return math.inf if back_at_s - self._busy_since_s > self._patience_s else back_at_s

    def given_up(self) -> RelaisError:
        """What the client is told where no server is left to ask."""
        return self._error or UpstreamUnavailable("the model's servers take no more requests now")
