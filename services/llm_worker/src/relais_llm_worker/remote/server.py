"""One URL: whether it answers, what it serves, and how many of its places are free."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

import structlog

from relais_common.config.llm_table import shown_url

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """One model at one server.

    Attributes:
        revision: what identifies the weights and how they are run, as far as the server tells.
        tells_ids: the server is vLLM: it tells token ids, takes them as a prompt, and turns them into text.
    """

    revision: str = ""
    max_model_len: int | None = None
    tells_ids: bool = False


SEVERAL = 3
"""Requests of a key, or keys, that a server must put off with nothing going well in between, before it is let alone."""
RECENT_S = 10.0
"""For so long after a request went well, those that are put off say nothing of the server: only their keys wait."""
PACE_S = 1.0
"""Between two tries of those whose requests were put off, until one goes well."""
MAX_KEYS = 1000
LONGEST_REST_S = 60.0
REST_MARGIN_S = 0.01  # a timer may fire a little early


class Server:
    """Places, state, and what the last look at it found.

    Attributes:
        listed: the models it names itself; None before the first look.
        looks: how often it was looked at and was found to be up or down.
        looked: set once it was.

    Args:
        changed: called when a place or the server itself comes back.
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
        """Places free, whether or not it answers: a single one after a rest, until something goes well."""
        places = max(0, self.max_concurrency - self.running)
        return min(1, places) if self._is_doubtful else places

    @property
    def refuses(self) -> bool:
        """The last request that it answered was refused. It may be that request, or the server."""
        return self._misplaced or bool(self._keys_put_off)

    @property
    def _is_doubtful(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        return len(self._keys_put_off) >= SEVERAL and now_s - self._went_well_s > RECENT_S

    def takes(self, key_id: str) -> bool:
        """Whether requests of this key may be tried now."""
        return asyncio.get_running_loop().time() >= self._key_rests_until_s.get(key_id, 0.0)

    def why_not(self, model: str) -> str | None:
        """Why this server cannot run the model now; None where it can."""
        if self.why_down is not None:
            return self.why_down
        if asyncio.get_running_loop().time() < self._rests_until_s:
            return "it asked to be left alone"
        return self._why_not.get(model)

    def served(self, model: str) -> Served:
        """The model as it was when the server answered last."""
        return self._served.get(model, Served())

    def note_good(self, key_id: str) -> None:
        """It has begun to answer a request of this key."""
        self._misplaced = False
        rested = self._key_rests_until_s.pop(key_id, None) is not None or self._is_doubtful
        self._put_off.pop(key_id, None)
        self._keys_put_off.clear()
        self._went_well_s = asyncio.get_running_loop().time()
        if rested:
            self._changed()

    def note_busy(self, channel_id: str, key_id: str, retry_after_s: float | None) -> None:
        """It will take a request later.

        After several of one key, that key's others wait; after some of several keys everybody's, unless one
        went well lately.
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
        """It refuses this deployment, or one request in a way that looks like it: others go elsewhere if they can."""
        if not self._misplaced:
            log.error("server_refused", url=self.shown, reason=reason)
        self._misplaced = True

    def doubt(self) -> None:
        """Have it looked at now."""
        self._doubt.set()

    async def doubted(self, timeout_s: float) -> None:
        """Wait for so long, or until somebody finds that it does not answer."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._doubt.wait()
        except TimeoutError:
            pass

    def begin_look(self) -> None:
        """Doubts from before are dealt with by the look that begins."""
        self._doubt.clear()

    def note_up(
        self, served: Mapping[str, Served], why_not: Mapping[str, str], listed: Collection[str]
    ) -> None:
        """It answers: with these models, and without those.

        Args:
            listed: every model it names, ours or not.
        """
        if self.why_down is not None or why_not != self._why_not:
            log.info("server_up", url=self.shown, missing=dict(why_not))
        self.why_down, self._served, self._why_not = None, served, why_not
        self.listed = frozenset(listed)
        self.note_looked()

    def note_looked(self) -> None:
        """It was looked at, and nothing is new."""
        self.looks += 1
        self.looked.set()
        self._changed()

    def note_down(self, reason: str) -> None:
        """It does not answer; what it served is remembered, for those who wait to go on there."""
        if self.why_down is None or not self.looked.is_set():
            log.warning("server_down", url=self.shown, reason=reason)
        self.why_down = reason
        self.looks += 1
        self.looked.set()
        self._doubt.set()

    def begin(self, key_id: str) -> None:
        self.running += 1
        # Until one has gone well, one at a time.
        self._rest(key_id, PACE_S)

    def end(self) -> None:
        self.running -= 1
        self._changed()


def _authorization(user: str, api_key: str | None) -> dict[str, str]:
    if user:
        # As a browser does with a URL that has a name and a password.
        credentials = base64.b64encode(unquote(user).encode()).decode()
        return {"Authorization": f"Basic {credentials}"}
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
