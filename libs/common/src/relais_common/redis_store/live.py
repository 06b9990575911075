"""`LiveBus` over Redis pub/sub: one connection per process, however many clients it serves."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from relais_common.backoff import Backoff
from relais_common.errors import DecodeError, StoreUnavailable
from relais_common.fanout import Fanout
from relais_common.lifecycle import first_failure
from relais_common.ports import Subscription
from relais_common.redis_store.connection import CONFIRM_TIMEOUT_S, store_errors
from relais_common.wire import codec, keys

log = structlog.get_logger(__name__)

SILENCE_S = 5.0
"""Silence after which the connection is asked whether it lives; as long again and it counts as dead."""


class RedisLiveBus:
    """Subscribes to a channel while it has readers here. `run` must be running meanwhile.

    Only `run` touches the connection. A reader that is cancelled in the middle of a command, as one is whose client
    leaves, would take it away from all the others.
    """

    def __init__(self, blocking: Redis) -> None:
        self._redis = blocking
        self._fanout = Fanout()
        self._confirmed: dict[str, asyncio.Event] = {}
        self._unanswered: Counter[str] = Counter()
        self._interrupted: set[str] = set()
        self._touched: set[str] = set()
        self._changed = asyncio.Event()
        self._heard = False

    @asynccontextmanager
    async def subscribe(self, channel_id: str) -> AsyncIterator[Subscription]:
        channel = keys.live(channel_id)
        with self._fanout.reader(channel) as subscription:
            try:
                await self._confirm(channel)
                yield subscription
            finally:
                # This reader still counts; the last one out ends the subscription.
                if self._fanout.count(channel) == 1:
                    self._confirmed.pop(channel, None)
                    self._interrupted.discard(channel)
                    self._touch(channel)

    def nudge(self) -> None:
        self._fanout.drop_all()

    def _touch(self, channel: str) -> None:
        self._touched.add(channel)
        self._changed.set()

    async def _confirm(self, channel: str) -> None:
        if channel not in self._confirmed:
            self._confirmed[channel] = asyncio.Event()
            self._touch(channel)
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                await self._confirmed[channel].wait()
        except TimeoutError as error:
            raise StoreUnavailable("no answer to a subscription", retry_after_s=2) from error

    async def run(self) -> None:
        """Read live messages, over one connection after another."""
        backoff = Backoff()
        while True:
            while not self._confirmed:
                self._changed.clear()
                await self._changed.wait()
            try:
                await self._use_one_connection(backoff)
            except StoreUnavailable as error:
                log.warning("live_bus_lost", error=str(error.__cause__ or error))
            finally:
                for confirmed in self._confirmed.values():
                    confirmed.clear()
                self._interrupted.update(self._confirmed)
            await backoff.pause()

    async def _use_one_connection(self, backoff: Backoff) -> None:
        async with self._redis.pubsub() as pubsub:
            with store_errors():
                await pubsub.connect()
                backoff.reset()
                self._unanswered.clear()
                await first_failure(
                    self._keep_subscribed(pubsub), self._read(pubsub), self._check_alive(pubsub)
                )

    async def _keep_subscribed(self, pubsub: PubSub) -> None:
        """Tell Redis who reads what, at every change. A pass costs what has changed, not what is subscribed to."""
        subscribed: set[str] = set()
        self._touched = set(self._confirmed)
        while True:
            self._changed.clear()
            touched, self._touched = self._touched, set()
            new = (touched & self._confirmed.keys()) - subscribed
            old = (touched & subscribed) - self._confirmed.keys()
            subscribed |= new
            subscribed -= old
            self._unanswered.update(new)
            if new:
                await pubsub.subscribe(*new)
            if old:
                await pubsub.unsubscribe(*old)
            for channel in touched:
                self._note_confirmed(channel)  # it may have been left and joined again meanwhile
            await self._changed.wait()

    def _note_confirmed(self, channel: str) -> None:
        if channel in self._confirmed and not self._unanswered[channel]:
            self._confirmed[channel].set()
            if channel in self._interrupted:
                # Whatever was published meanwhile is in the log only, and that may be another one now.
                self._interrupted.discard(channel)
                self._fanout.drop(channel)

    async def _read(self, pubsub: PubSub) -> None:
        while True:
            # The only reader of this connection: the client's own health checks would read it too.
            # And without a time limit, which costs more than a message: `_check_alive` sees to silences.
            message = await pubsub.get_message(timeout=None)
            self._heard = True
            if message is not None:
                self._dispatch(message)

    async def _check_alive(self, pubsub: PubSub) -> None:
        while True:
            self._heard = False
            await asyncio.sleep(SILENCE_S)
            if not self._heard:
                await pubsub.ping()
                await asyncio.sleep(SILENCE_S)
                if not self._heard:
                    raise StoreUnavailable("the subscription connection is dead")

    def _dispatch(self, message: dict[str, object]) -> None:
        channel, data = message["channel"], message["data"]
        if not isinstance(channel, bytes):
            return  # a pong
        name = channel.decode()
        if message["type"] == "message":
            assert isinstance(data, bytes)
            try:
                self._fanout.publish(name, codec.decode_live(data, time.monotonic()))
            except DecodeError:
                log.warning("live_message_unreadable", channel=name)
        elif message["type"] == "subscribe":
            self._unanswered[name] -= 1
            if not self._unanswered[name]:
                del self._unanswered[name]
            self._note_confirmed(name)
