"""A client that does everything right: it repeats itself, reconnects, and checks every event that it gets."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.soaking.asks import Answer, Ask
from benchmarks.soaking.fleet import Fleet
from relais_testing.sse_client import SseEvent, sse_events

ENDS = frozenset({"completed", "failed", "cancelled", "expired"})
LIMIT_S = 300.0
QUICK = aiohttp.ClientTimeout(total=6)
STREAM = aiohttp.ClientTimeout(total=None, connect=4, sock_read=5)
WHOLE = aiohttp.ClientTimeout(total=90)
_GONE = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass
class Outcome:
    """What became of one request.

    Attributes:
        status: how it ended; `lost` where it did not.
        problems: broken promises, by kind: `doubled`, `missing`, `reread`, `text`, `refused`.
        seen: what the client did to get there: retries, reconnects, rewound logs.
        seconds: from the first try to the last check.
    """

    ask: Ask
    channel_id: str = ""
    status: str = "lost"
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    answer: Answer | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def kept(self) -> bool:
        """Whether it ended as it was to: completed, or cancelled where the client asked for it in time."""
        return self.status == "completed" or (
            self.status == "cancelled" and self.ask.manner == "cancel"
        )

    def blame(self, kind: str, what: str) -> None:
        self.problems.append((kind, f"{self.ask.number} {self.channel_id}: {what}"))


class _Broken(Exception):
    """A promise was broken; there is no use in going on with this request."""


class Client:
    """Asks one thing after another of whichever orchestrator answers."""

    def __init__(
        self, session: aiohttp.ClientSession, fleet: Fleet, label: str, rng: random.Random
    ) -> None:
        self._session = session
        self._fleet = fleet
        self._label = label
        self._rng = rng

    async def ask(self, ask: Ask) -> Outcome:
        """Never raises for what the services do: that is in the outcome."""
        outcome = Outcome(ask)
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(LIMIT_S):
                if ask.manner == "whole":
                    await self._ask_for_the_whole(outcome)
                else:
                    await self._ask_for_a_stream(outcome)
        except TimeoutError:
            outcome.blame("lost", f"no end within {LIMIT_S:g} s")
        except _Broken:
            pass
        outcome.seconds = time.monotonic() - began_s
        if outcome.status == "completed" and outcome.answer is not None:
            self._check_answer(outcome, outcome.answer)
        return outcome

    def _headers(self, ask: Ask, **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {ask.key}", **more}

    async def _post(
        self, outcome: Outcome, path: str, timeout: aiohttp.ClientTimeout
    ) -> tuple[dict[str, Any], str]:
        """Body and request id of the first answer that is none of "try again"."""
        ask = outcome.ask
        headers = self._headers(ask, **{"Idempotency-Key": f"{self._label}/{ask.number}"})
        while True:
            url = self._fleet.front_url(self._rng) + path
            try:
                async with self._session.post(
                    url, json=ask.body, headers=headers, timeout=timeout
                ) as response:
                    if response.status in (200, 202):
                        return await response.json(), response.headers["X-Request-Id"]
                    if response.status not in (429, 503):
                        outcome.blame("refused", f"{response.status} {await response.text()}")
                        raise _Broken
                    outcome.seen[str(response.status)] += 1
            except _GONE:
                outcome.seen["post_again"] += 1
            await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.05, 0.4))

    async def _ask_for_the_whole(self, outcome: Outcome) -> None:
        body, outcome.channel_id = await self._post(outcome, "/v1/chat/completions", WHOLE)
        choice = body["choices"][0]
        outcome.status = "completed"
        outcome.text = choice["message"]["content"]
        outcome.answer = Answer(
            outcome.text, body["usage"]["completion_tokens"], choice["finish_reason"]
        )

    async def _ask_for_a_stream(self, outcome: Outcome) -> None:
        body, _ = await self._post(outcome, "/v1/requests", QUICK)
        outcome.channel_id = body["channel_id"]
        if outcome.ask.manner == "late":
            while (await self._state(outcome))["status"] in ("queued", "running"):
                await self._pause()
        if outcome.ask.manner == "cancel":
            await self._cancel(outcome)
        events = await self._follow(outcome, restless=outcome.ask.manner == "restless")
        self._note(outcome, events)
        again = await self._follow(outcome, restless=False)
        if again != events:
            outcome.blame("reread", _difference(events, again))
        state = await self._state(outcome)
        if state["status"] != outcome.status:
            outcome.blame("reread", f"state says {state['status']}, stream {outcome.status}")
        elif outcome.status == "completed" and state["result"]["text"] != outcome.text:
            outcome.blame("text", f"state has {state['result']['text']!r}")

    async def _cancel(self, outcome: Outcome) -> None:
        """Ask that it be stopped, at whatever point it may be."""
        await asyncio.sleep(self._rng.uniform(0, 4))
        await self._channel(outcome, "DELETE")
        outcome.seen["cancels"] += 1

    async def _state(self, outcome: Outcome) -> dict[str, Any]:
        return await self._channel(outcome, "GET")

    async def _channel(self, outcome: Outcome, method: str) -> dict[str, Any]:
        while True:
            url = f"{self._fleet.front_url(self._rng)}/v1/channels/{outcome.channel_id}"
            try:
                async with self._session.request(
                    method, url, headers=self._headers(outcome.ask), timeout=QUICK
                ) as response:
                    if response.status in (200, 202):
                        state: dict[str, Any] = await response.json()
                        return state
                    if response.status != 503:
                        outcome.blame(
                            "lost", f"{method}: {response.status} {await response.text()}"
                        )
                        raise _Broken
            except _GONE:
                outcome.seen[f"{method}_again"] += 1
            await self._pause()

    async def _follow(self, outcome: Outcome, *, restless: bool) -> list[SseEvent]:
        """Every event of the channel, over as many connections as it takes."""
        events: list[SseEvent] = []
        while not (events and events[-1].name in ENDS):
            url = f"{self._fleet.front_url(self._rng)}/v1/channels/{outcome.channel_id}/events"
            headers = self._headers(outcome.ask, **{"Last-Event-ID": str(len(events))})
            hang_up_at = len(events) + self._rng.randint(1, 60) if restless else 10**9
            try:
                async with self._session.get(url, headers=headers, timeout=STREAM) as response:
                    if response.status == 200:
                        async for event in sse_events(response):
                            # Frames without an id are news of the queue, not part of the log.
                            if event.id:
                                self._take_in(outcome, events, event)
                            if len(events) >= hang_up_at:
                                break
                    elif response.status == 409:
                        # Allowed to Redis where a machine loses power, never here: see docs/protocol.md.
                        outcome.seen["rewound"] += 1
                        outcome.blame("rewound", f"at {len(events)}: {await response.text()}")
                        await asyncio.sleep(2)
                    elif response.status != 503:
                        outcome.blame("lost", f"events: {response.status} {await response.text()}")
                        raise _Broken
            except _GONE:
                pass
            outcome.seen["connections"] += 1
            await self._pause()
        return events

    @staticmethod
    def _take_in(outcome: Outcome, events: list[SseEvent], event: SseEvent) -> None:
        due = len(events) + 1
        if int(event.id) != due:
            kind = "doubled" if int(event.id) < due else "missing"
            outcome.blame(kind, f"event {event.id} ({event.name}) where {due} was due")
            raise _Broken
        if events and events[-1].name in ENDS:
            outcome.blame("doubled", f"{event.name} after the end")
            raise _Broken
        events.append(event)

    @staticmethod
    def _note(outcome: Outcome, events: list[SseEvent]) -> None:
        end = events[-1]
        outcome.status = end.name
        for event in events:
            if event.name == "token":
                outcome.text += event.json["text"]
                outcome.token_ids += event.json["token_ids"]
            elif event.name == "restarted":
                outcome.seen["restarts"] += 1
                outcome.text, outcome.token_ids = "", []
        if end.name == "cancelled" and outcome.ask.manner == "cancel":
            expected = outcome.ask.expected
            if expected is not None and not expected.text.startswith(outcome.text):
                outcome.blame("text", f"cancelled after {outcome.text!r}")
            return
        if end.name != "completed":
            outcome.blame("ended", f"{end.name} {end.data}")
            return
        usage = end.json["usage"]
        outcome.answer = Answer(
            outcome.text,
            usage["output_tokens"],
            end.json["finish_reason"],
            end.json["stop_reason"],
        )
        if usage["output_tokens"] != len(outcome.token_ids):
            outcome.blame("text", f"{len(outcome.token_ids)} token ids, usage {usage}")

    @staticmethod
    def _check_answer(outcome: Outcome, answer: Answer) -> None:
        expected = outcome.ask.expected
        if expected is None:
            return
        if outcome.ask.manner == "whole":  # OpenAI's form has no stop reason
            expected = Answer(expected.text, expected.output_tokens, expected.finish_reason)
        if answer != expected:
            outcome.blame("text", f"{answer} where {expected} was due")


def _difference(first: list[SseEvent], second: list[SseEvent]) -> str:
    for one, other in zip(first, second, strict=False):
        if one != other:
            return f"{one} was {other} at the second reading"
    return f"{len(first)} events, {len(second)} at the second reading"
