"""Ask Relais, and get the whole answer though servers die meanwhile. One file, needs aiohttp: copy it.

    async for event in ask(["http://one:8080", "http://two:8080"], {"model": ..., "messages": [...]}):
        if event.name == "token":
            print(event.data["text"], end="")

From a shell: `.venv/bin/python examples/resuming_client.py --url http://one:8080 --url http://two:8080 "Bonjour"`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import os
import random
import sys
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp

log = logging.getLogger("resuming_client")

TERMINAL = ("completed", "failed", "cancelled", "expired")
CUT = (aiohttp.ClientError, OSError)  # OSError: also a timeout
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
# A server says something every ten seconds (KEEPALIVE_S): one that is silent for longer is gone.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=30)


@dataclass(frozen=True)
class Event:
    """What happened to the request.

    Names to expect: `queued`, `started`, `token`, `restarted` (throw away the text so far), and at the end one of
    `TERMINAL`. Others may be added: ignore what you do not know. The id is None where the event is news, not history:
    a new position in the queue is not told again to those who resume.
    """

    name: str
    data: dict[str, Any]
    id: int | None


class Refused(Exception):
    """The server said no, and would say it again."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Unreachable(Exception):
    """No server could be used for as long as the caller had patience."""


def text_after(text: str, event: Event) -> str:
    """The answer as it stands after this event, given how it stood before."""
    if event.name == "token":
        return text + str(event.data["text"])
    if event.name == "restarted":
        return ""
    if event.name in TERMINAL:
        # Who comes so late that the events have gone gets the whole text with the last one.
        return event.data.get("text") or text
    return text


async def ask(
    urls: Sequence[str],
    body: dict[str, Any],
    *,
    key: str | None = None,
    idempotency_key: str | None = None,
    patience_s: float = 120.0,
) -> AsyncGenerator[Event]:
    """Submit a request and yield its events, each once, up to the terminal one.

    Args:
        urls: servers of one deployment; any of them will do, the first is tried first.
        body: of `POST /v1/requests`.
        key: sent as `Authorization: Bearer KEY`.
        idempotency_key: give your own to find the request again after the death of this very program.
        patience_s: how long to go on trying while no server can be used. Waiting in the queue does not count.

    Raises:
        Refused: a 4xx; 404 while streaming means that the request is no longer known.
        Unreachable: patience is over.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    servers = _Servers(urls, patience_s)
    async with aiohttp.ClientSession(headers=headers, timeout=TIMEOUT) as session:
        # The same key and the same bytes at each try: the request is queued once, whoever dies when.
        events_url = await _submit(
            session, servers, json.dumps(body).encode(), idempotency_key or str(uuid.uuid4())
        )
        async with aclosing(_follow(session, servers, events_url)) as events:
            async for event in events:
                yield event


class _Servers:
    """Whom to ask, and how long to wait before asking the next."""

    def __init__(self, urls: Sequence[str], patience_s: float) -> None:
        self._urls = itertools.cycle([url.rstrip("/") for url in urls])
        self._patience_s = patience_s
        self._failures = 0
        self._failing_since_s = 0.0
        self._said: set[str] = set()
        self.url = next(self._urls)

    def works(self) -> None:
        """The present one gave something."""
        if self._failures:
            log.info("going on at %s", self.url)
        self._failures = 0
        self._said.clear()

    async def go_to_next(self, why: str, at_least_s: float = 0.0) -> None:
        """Pause, longer at each failure and never in step with other clients, then choose the next."""
        if self._failures == 0:
            self._failing_since_s = time.monotonic()
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._failures) * random.random()
        self._failures += 1
        if time.monotonic() + at_least_s > self._failing_since_s + self._patience_s:
            raise Unreachable(f"gave up after {self._patience_s:g} s: {why}")
        self.url = next(self._urls)
        if why not in self._said:  # once for each trouble, however many tries it takes
            log.info("%s; retrying for up to %g s", why, self._patience_s)
            self._said.add(why)
        await asyncio.sleep(at_least_s + pause_s)


async def _submit(
    session: aiohttp.ClientSession, servers: _Servers, body: bytes, idempotency_key: str
) -> str:
    headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
    while True:
        retry_after_s = 0.0
        try:
            async with session.post(
                f"{servers.url}/v1/requests", data=body, headers=headers
            ) as response:
                if response.status == 202:
                    servers.works()
                    return str((await response.json())["events_url"])
                why, retry_after_s = await _refusal(response)
        except CUT as error:
            why = f"{servers.url} is lost ({type(error).__name__})"
        await servers.go_to_next(why, retry_after_s)


async def _follow(
    session: aiohttp.ClientSession, servers: _Servers, events_url: str
) -> AsyncGenerator[Event]:
    last_id = 0
    while True:
        retry_after_s = 0.0
        headers = {"Last-Event-ID": str(last_id)} if last_id else {}
        try:
            async with session.get(servers.url + events_url, headers=headers) as response:
                if response.status == 204:
                    return  # it has ended, and we have had all of it
                if response.status == 409:
                    # The servers' store came back without the last events. They will be made again.
                    last_id = 0
                    yield Event("restarted", {"reason": "log_rewound"}, None)
                    continue
                if response.status == 200:
                    async for event in _events(response, servers):
                        last_id = event.id or last_id
                        yield event
                        if event.name in TERMINAL:
                            return
                    why = f"{servers.url} ended the stream early"
                else:
                    why, retry_after_s = await _refusal(response)
        except CUT as error:
            why = f"{servers.url} is lost ({type(error).__name__})"
        await servers.go_to_next(why, retry_after_s)


async def _events(response: aiohttp.ClientResponse, servers: _Servers) -> AsyncIterator[Event]:
    buffer = b""
    async for chunk in response.content.iter_any():
        *frames, buffer = (buffer + chunk).split(b"\n\n")
        for frame in frames:
            lines = (line.partition(":") for line in frame.decode().split("\n"))
            fields = {name: value.removeprefix(" ") for name, _, value in lines}
            if "retry" not in fields:
                servers.works()  # `retry` comes first, even from one that will say no more
            if "data" in fields:  # otherwise it only kept the connection alive
                number = int(fields["id"]) if "id" in fields else None
                yield Event(fields["event"], json.loads(fields["data"]), number)


async def _refusal(response: aiohttp.ClientResponse) -> tuple[str, float]:
    """Why it was refused, and the seconds to wait before another try.

    Raises:
        Refused: there is no point in another try.
    """
    text = await response.text()
    if response.status < 500 and response.status != 429:
        raise Refused(response.status, text)
    retry_after = response.headers.get("Retry-After", "")
    wait_s = float(retry_after) if retry_after.isdigit() else 0.0
    return f"{response.url.origin()} answered {response.status}", wait_s


async def _print_answer(options: argparse.Namespace) -> bool:
    body = {
        "model": options.model,
        "messages": [{"role": "user", "content": options.prompt}],
        "params": {"max_tokens": options.max_tokens},
    }
    text, last = "", None
    async for event in ask(options.url, body, key=options.key):
        before, text, last = text, text_after(text, event), event
        if event.name == "queued":
            log.info("number %s in the queue", event.data["queue_position"])
        elif event.name == "restarted":
            print("\n[from the beginning]")
        print(text.removeprefix(before), end="", flush=True)
    print()
    if last is not None and last.name != "completed":
        log.error("%s: %s", last.name, json.dumps(last.data))
    return last is not None and last.name == "completed"


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask Relais; go on at another server if one dies.")
    parser.add_argument("prompt")
    parser.add_argument("--url", action="append", help="may be given several times")
    parser.add_argument("--key", default=os.environ.get("RELAIS_API_KEY"))
    parser.add_argument("--model", default="relais-demo")
    parser.add_argument("--max-tokens", type=int, default=200)
    options = parser.parse_args()
    options.url = options.url or ["http://localhost:8080"]
    # On lines of their own: the answer may be in the middle of one.
    logging.basicConfig(level=logging.INFO, format="\n[%(message)s]")
    try:
        return 0 if asyncio.run(_print_answer(options)) else 1
    except (Refused, Unreachable) as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
