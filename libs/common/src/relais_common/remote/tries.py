"""Records one request's tries: where it may be tried next, and when to give up."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from relais_common.jobs.errors import EngineFailed, RelaisError, UpstreamUnavailable
from relais_common.remote.errors import Busy, Lost, Misplaced, TryFailed, Unreachable
from relais_common.remote.server import Server

MAX_BUSY = 6
"""Maximum of consecutive tries that servers put off."""
MAX_TRIES = 20
"""Maximum of consecutive tries without progress, for whatever reason."""
LONGEST_PATIENCE_S = 60.0
"""How long a request may be put off, or half of its deadline if shorter, so that its client gets a reason."""
FIRST_REST_S = 0.5
LONGEST_OWN_REST_S = 8.0


@dataclass(slots=True)
class _Away:
    """What a request waits for at a server: a time, or the next probe."""

    until_s: float = 0.0
    looks: int = 0


class Tries:
    """The tries of one request.

    Args:
        max_lost: maximum of consecutive tries that lose a server.
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
        """Return whether this request may be sent there now."""
        away = self._away.get(server)
        if away is None:
            return True
        return away.looks <= server.looks and asyncio.get_running_loop().time() >= away.until_s

    def refused_by(self, server: Server) -> bool:
        """Return whether the server is ruled out for this request."""
        away = self._away.get(server)
        return away is not None and away.until_s == math.inf

    @property
    def put_off(self) -> bool:
        """Return whether a server has asked for a later try."""
        return self.next_s() is not None

    def next_s(self) -> float | None:
        """Return the earliest time at which a server may be tried again, on the loop's clock."""
        now_s = asyncio.get_running_loop().time()
        times = [away.until_s for away in self._away.values() if now_s < away.until_s < math.inf]
        return min(times, default=None)

    def note_progress(self) -> None:
        """Forget earlier tries after progress."""
        self._lost = self._busy = self._all = 0
        self._away.clear()

    def note(self, server: Server, error: TryFailed) -> None:
        """Record a failed try.

        Raises:
            RelaisError: there is no other try; the error is the client's.
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
        """Return the client's error if no server is left."""
        return self._error or UpstreamUnavailable("the model's servers take no more requests now")
