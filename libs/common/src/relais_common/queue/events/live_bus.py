"""`LiveBus` over Redis pub/sub: one connection per process, however many clients it serves."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing
from itertools import islice
from typing import Any

import structlog

from relais_common.jobs.errors import DecodeError, StoreUnavailable
from relais_common.queue import codec, keys
from relais_common.queue.client.connection import CONFIRM_TIMEOUT_S, store_errors
from relais_common.queue.client.link import Link, opened
from relais_common.queue.client.packing import pack
from relais_common.queue.fanout import BufferedSubscription, Fanout
from relais_common.queue.ports import Subscription
from relais_common.runtime.backoff import Backoff
from relais_common.runtime.lifecycle import first_failure, lived_timeout

log = structlog.get_logger(__name__)

SILENCE_S = 5.0
"""Silence after which the connection is pinged; after as long again it counts as dead."""

CHANNELS_AT_ONCE = 1000
"""Channels in a command: it stays one piece, so a ping goes before or after it and never into it."""


class RedisLiveBus:
    """Subscribes to channels while they have readers here, as long as `run` is running.

    Only `run` uses the connection. A reader that is cancelled in the middle of a command, because its client
    left, would break the connection for all others.
    """

    def __init__(self, make_link: Callable[[], Link]) -> None:
        self._make_link = make_link
        self._fanout = Fanout()
        self._wanted: set[str] = set()
        self._confirmed: set[str] = set()
        self._awaited: dict[str, asyncio.Event] = {}
        self._unanswered: Counter[str] = Counter()
        self._interrupted: set[str] = set()
        self._touched: set[str] = set()
        self._changed = asyncio.Event()
        self._heard = False

    def subscribe(self, channel_id: str) -> AbstractAsyncContextManager[Subscription]:
        return _Reading(self, keys.live(channel_id))

    async def join(self, channel: str) -> BufferedSubscription:
        """Return a subscription that Redis has confirmed; `leave` must follow."""
        subscription = self._fanout.join(channel)
        try:
            await self._confirm(channel)
        except BaseException:
            self.leave(channel, subscription)
            raise
        return subscription

    def leave(self, channel: str, subscription: BufferedSubscription) -> None:
        """Remove this reader; the last one ends the subscription."""
        self._fanout.leave(channel, subscription)
        if not self._fanout.count(channel):
            self._wanted.discard(channel)
            self._confirmed.discard(channel)
            self._awaited.pop(channel, None)
            self._interrupted.discard(channel)
            self._touch(channel)

    def nudge(self) -> None:
        self._fanout.drop_all()

    def _touch(self, channel: str) -> None:
        self._touched.add(channel)
        self._changed.set()

    async def _confirm(self, channel: str) -> None:
        if channel not in self._wanted:
            self._wanted.add(channel)
            self._touch(channel)
        if channel in self._confirmed:
            return
        awaited = self._awaited.setdefault(channel, asyncio.Event())
        try:
            async with lived_timeout(CONFIRM_TIMEOUT_S):
                await awaited.wait()
        except TimeoutError as error:
            raise StoreUnavailable("no answer to a subscription", retry_after_s=2) from error

    async def run(self) -> None:
        """Read live messages, reconnecting as necessary."""
        backoff = Backoff()
        while True:
            while not self._wanted:
                self._changed.clear()
                await self._changed.wait()
            try:
                await self._use_one_connection(backoff)
            except StoreUnavailable as error:
                log.warning("live_bus_lost", error=str(error.__cause__ or error))
            finally:
                self._confirmed.clear()
                self._interrupted.update(self._wanted)
            await backoff.pause()

    async def _use_one_connection(self, backoff: Backoff) -> None:
        with store_errors():
            async with opened(self._make_link()) as link:
                backoff.reset()
                self._unanswered.clear()
                await first_failure(
                    self._keep_subscribed(link), self._read(link), self._check_alive(link)
                )

    async def _keep_subscribed(self, link: Link) -> None:
        """Update the subscriptions at every change. The cost depends on the changes, not on all subscriptions."""
        subscribed: set[str] = set()
        self._touched = set(self._wanted)
        while True:
            self._changed.clear()
            touched, self._touched = self._touched, set()
            new = (touched & self._wanted) - subscribed
            old = (touched & subscribed) - self._wanted
            subscribed |= new
            subscribed -= old
            self._unanswered.update(new)
            if new:
                await link.send_pieces(_commands("SUBSCRIBE", new))
            if old:
                await link.send_pieces(_commands("UNSUBSCRIBE", old))
            for channel in touched:
                self._note_confirmed(channel)  # it may have been left and joined again meanwhile
            await self._changed.wait()

    def _note_confirmed(self, channel: str) -> None:
        if channel in self._wanted and not self._unanswered[channel]:
            self._confirmed.add(channel)
            if (awaited := self._awaited.pop(channel, None)) is not None:
                awaited.set()
            if channel in self._interrupted:
                # Messages published meanwhile are only in the log, which may have changed.
                self._interrupted.discard(channel)
                self._fanout.drop(channel)

    async def _read(self, link: Link) -> None:
        # Without a timeout, which costs more than a message: `_check_alive` handles silences.
        async with aclosing(link.receive()) as received:
            async for answers in received:
                self._heard = True
                now_s = time.monotonic()
                for answer in answers:
                    self._dispatch(answer, now_s)

    async def _check_alive(self, link: Link) -> None:
        while True:
            self._heard = False
            await asyncio.sleep(SILENCE_S)
            if not self._heard:
                await link.send_pieces(pack(["PING"]))
                await asyncio.sleep(SILENCE_S)
                if not self._heard:
                    raise StoreUnavailable("the subscription connection is dead")

    def _dispatch(self, answer: Any, now_s: float) -> None:
        if isinstance(answer, Exception):
            raise answer
        if not isinstance(answer, list):
            return  # to a ping, with nothing subscribed
        kind, channel, data = answer if len(answer) == 3 else (*answer, None)
        if kind == b"message":
            name = channel.decode()
            try:
                self._fanout.publish(name, codec.decode_live(data, now_s))
            except DecodeError:
                log.warning("live_message_unreadable", channel=name)
        elif kind == b"subscribe":
            name = channel.decode()
            self._unanswered[name] -= 1
            if not self._unanswered[name]:
                del self._unanswered[name]
            self._note_confirmed(name)


def _commands(name: str, channels: Iterable[str]) -> list[bytes]:
    left = iter(channels)
    commands: list[bytes] = []
    while some := [*islice(left, CHANNELS_AT_ONCE)]:
        commands += pack([name, *some])
    return commands


class _Reading:
    """The context of one reader of a channel. Not a generator: its frame would cost each open stream 0.6 KB."""

    __slots__ = ("_bus", "_channel", "_subscription")

    def __init__(self, bus: RedisLiveBus, channel: str) -> None:
        self._bus = bus
        self._channel = channel

    async def __aenter__(self) -> BufferedSubscription:
        self._subscription = await self._bus.join(self._channel)
        return self._subscription

    async def __aexit__(self, *_: object) -> None:
        self._bus.leave(self._channel, self._subscription)
