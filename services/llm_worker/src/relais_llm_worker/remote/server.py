"""One URL: whether it answers, what it serves, and how many of its places are free."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

import structlog

from relais_common.llm_table import shown_url

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


class Server:
    """Places, state, and what the last look at it found.

    Attributes:
        listed: the models it names itself; None before the first look.

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
        self._rests_until_s = 0.0
        self._changed = changed

    @property
    def free(self) -> int:
        """Places free, whether or not it answers."""
        return max(0, self.max_concurrency - self.running)

    def why_not(self, model: str) -> str | None:
        """Why this server cannot run the model now; None where it can."""
        if self.why_down is not None:
            return self.why_down
        if time.monotonic() < self._rests_until_s:
            return "it asked to be left alone"
        return self._why_not.get(model)

    def served(self, model: str) -> Served:
        """The model as it was when the server answered last."""
        return self._served.get(model, Served())

    def rest(self, seconds: float) -> None:
        """Ask nothing of it for so long; whoever waits then is told by the caller."""
        self._rests_until_s = time.monotonic() + seconds

    async def doubted(self, timeout_s: float) -> None:
        """Wait for so long, or until somebody finds that it does not answer."""
        self._doubt.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._doubt.wait()
        except TimeoutError:
            pass

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
        self._changed()

    def note_down(self, reason: str) -> None:
        """It does not answer; what it served is remembered, for those who wait to go on there."""
        if self.why_down is None:
            log.warning("server_down", url=self.shown, reason=reason)
        self.why_down = reason
        self._doubt.set()

    def begin(self) -> None:
        self.running += 1

    def end(self) -> None:
        self.running -= 1
        self._changed()


def _authorization(user: str, api_key: str | None) -> dict[str, str]:
    if user:
        # As a browser does with a URL that has a name and a password.
        credentials = base64.b64encode(unquote(user).encode()).decode()
        return {"Authorization": f"Basic {credentials}"}
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
