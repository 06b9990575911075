"""One server: whether it answers, what it serves, and how many of its places are free."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

import structlog

from relais_common.config.server_table import shown_url
from relais_common.jobs.errors import UpstreamUnavailable
from relais_common.jobs.job import Job
from relais_common.remote.errors import Busy, Lost, Misplaced, TryFailed, Unreachable

log = structlog.get_logger(__name__)

MAX_COUNT = 1 << 24
"""Upper bound on tokens that a server may tell of; larger numbers are invalid."""


@dataclass(frozen=True, slots=True)
class Served:
    """One model at one server.

    Attributes:
        revision: identifies the weights and how they are run, as far as the server reports it.
        tells_ids: whether the server is vLLM: it reports token ids, accepts them as a prompt, and detokenizes them.
    """

    revision: str = ""
    max_model_len: int | None = None
    tells_ids: bool = False


SEVERAL = 3
"""Consecutive requests of a key, or keys, that a server puts off before it gets a rest."""
RECENT_S = 10.0
"""How long after a success requests that are put off count against their keys only."""
PACE_S = 1.0
"""Time between two tries of requests that were put off, until one succeeds."""
MAX_KEYS = 1000
LONGEST_REST_S = 60.0
REST_MARGIN_S = 0.01  # a timer may fire a little early


class Server:
    """A server's places, its state, and the result of the last probe.

    Attributes:
        listed: the models that it lists; None before the first probe.
        looks: number of probes that found it up or down.
        looked: set after the first one.

    Args:
        changed: called when a place becomes free or the server comes back.
    """

    def __init__(
        self, url: str, api_key: str | None, max_concurrency: int, changed: Callable[[], None]
    ) -> None:
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=host))
        self.shown = shown_url(url)
        self.headers: Mapping[str, str] = _authorization(user, api_key)
        self.max_concurrency = max_concurrency
        self.running = 0
        self.why_down: str | None = "not asked yet"
        self.listed: frozenset[str] | None = None
        self._doubt = asyncio.Event()
        self._served: Mapping[str, Served] = {}
        self._why_not: Mapping[str, str] = {}
        self.looks = 0
        self.looked = asyncio.Event()
        self._put_off: dict[str, set[str]] = {}  # by key: some of its requests since one went well
        self._keys_put_off: set[str] = set()  # since any request went well
        self._key_rests_until_s: dict[str, float] = {}
        self._rests_until_s = 0.0
        self._went_well_s = -math.inf
        self._misplaced = False
        self._changed = changed

    @property
    def free(self) -> int:
        """Return the free places, whether or not it answers: only one after a rest, until a request succeeds."""
        places = max(0, self.max_concurrency - self.running)
        return min(1, places) if self._is_doubtful else places

    @property
    def refuses(self) -> bool:
        """Return whether it refused its last request, which may be the request's fault or the server's."""
        return self._misplaced or bool(self._keys_put_off)

    @property
    def _is_doubtful(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        return len(self._keys_put_off) >= SEVERAL and now_s - self._went_well_s > RECENT_S

    def takes(self, key_id: str) -> bool:
        """Return whether requests of this key may be tried now."""
        return asyncio.get_running_loop().time() >= self._key_rests_until_s.get(key_id, 0.0)

    def why_not(self, model: str) -> str | None:
        """Return why this server cannot run the model now; None if it can."""
        if self.why_down is not None:
            return self.why_down
        if asyncio.get_running_loop().time() < self._rests_until_s:
            return "it asked to be left alone"
        return self._why_not.get(model)

    def served(self, model: str) -> Served:
        """Return the model as the server last reported it."""
        return self._served.get(model, Served())

    def note_good(self, key_id: str) -> None:
        """Note that it has begun to answer a request of this key."""
        self._misplaced = False
        rested = self._key_rests_until_s.pop(key_id, None) is not None or self._is_doubtful
        self._put_off.pop(key_id, None)
        self._keys_put_off.clear()
        self._went_well_s = asyncio.get_running_loop().time()
        if rested:
            self._changed()

    def heed(self, error: TryFailed, job: Job, **told: object) -> None:
        """Note a failed try of a job. One request's refusal says little about the server.

        Args:
            told: goes into the log.
        """
        log.warning(
            "server_try_failed",
            url=self.shown,
            reason=f"{type(error).__name__.lower()}: {error}",
            **told,
        )
        match error:
            case Busy():
                self.note_busy(job.channel_id, job.key_id, error.retry_after_s)
                if isinstance(error.passed_on, UpstreamUnavailable):
                    self.doubt()
            case Misplaced():
                self.note_misplaced(str(error))
            case Unreachable():
                self.note_down(str(error))
            case Lost():
                # Only a look can tell whether it was the server or the request.
                self.doubt()

    def note_busy(self, channel_id: str, key_id: str, retry_after_s: float | None) -> None:
        """Note that it has put off a request.

        After several of one key, that key's other requests wait; after some of several keys, all requests wait, unless
        one succeeded recently.
        """
        requests = self._put_off.setdefault(key_id, set())
        if len(requests) < SEVERAL:
            requests.add(channel_id)
        self._keys_put_off.add(key_id)
        while len(self._put_off) > MAX_KEYS:
            oldest = next(iter(self._put_off))
            del self._put_off[oldest]
            self._key_rests_until_s.pop(oldest, None)
        self._rest(key_id, min(retry_after_s or PACE_S, LONGEST_REST_S))

    def _rest(self, key_id: str, rest_s: float) -> None:
        loop = asyncio.get_running_loop()
        by_key = len(self._put_off.get(key_id, ())) >= SEVERAL
        if by_key:
            self._key_rests_until_s[key_id] = loop.time() + rest_s
        if self._is_doubtful:
            self._rests_until_s = loop.time() + rest_s
        if by_key or self._is_doubtful:
            # Whoever waits looks again then.
            loop.call_later(rest_s + REST_MARGIN_S, self._changed)

    def note_misplaced(self, reason: str) -> None:
        """Note that it refuses this deployment, or seems to: other requests prefer other servers."""
        if not self._misplaced:
            log.error("server_refused", url=self.shown, reason=reason)
        self._misplaced = True

    def doubt(self) -> None:
        """Have it probed now."""
        self._doubt.set()

    async def doubted(self, timeout_s: float) -> None:
        """Wait for this time, or until somebody doubts that it answers."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._doubt.wait()
        except TimeoutError:
            pass

    def begin_look(self) -> None:
        """Begin a probe, which settles earlier doubts."""
        self._doubt.clear()

    def note_up(
        self, served: Mapping[str, Served], why_not: Mapping[str, str], listed: Collection[str]
    ) -> None:
        """Note that it answers, with these models.

        Args:
            listed: every model that it lists, ours or not.
        """
        if self.why_down is not None or why_not != self._why_not:
            log.info("server_up", url=self.shown, missing=dict(why_not))
        self.why_down, self._served, self._why_not = None, served, why_not
        self.listed = frozenset(listed)
        self.note_looked()

    def note_looked(self) -> None:
        """Note a probe that found nothing new."""
        self.looks += 1
        self.looked.set()
        self._changed()

    def note_down(self, reason: str) -> None:
        """Note that it does not answer. Its models are remembered for answers that may continue there."""
        if self.why_down is None or not self.looked.is_set():
            log.warning("server_down", url=self.shown, reason=reason)
        self.why_down = reason
        self.looks += 1
        self.looked.set()
        self._doubt.set()

    def begin(self, key_id: str) -> None:
        """Occupy a place."""
        self.running += 1
        # Until one has gone well, one at a time.
        self._rest(key_id, PACE_S)

    def end(self) -> None:
        """Free a place."""
        self.running -= 1
        self._changed()


def _authorization(user: str, api_key: str | None) -> dict[str, str]:
    if user:
        # As a browser does with a URL that has a name and a password.
        credentials = base64.b64encode(unquote(user).encode()).decode()
        return {"Authorization": f"Basic {credentials}"}
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
