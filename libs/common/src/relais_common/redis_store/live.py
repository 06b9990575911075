"""`LiveBus` over Redis pub/sub: one connection per process, however many clients it serves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from relais_common.errors import DecodeError, StoreUnavailable
from relais_common.fanout import Fanout
from relais_common.ports import Subscription
from relais_common.redis_store.connection import CONFIRM_TIMEOUT_S, store_errors
from relais_common.wire import codec, keys

log = structlog.get_logger(__name__)

SILENCE_S = 5.0
"""Silence after which the connection is asked whether it lives; twice as long and it counts as dead."""

_LONGEST_PAUSE_S = 2.0


class RedisLiveBus:
    """Subscribes to a channel while it has readers here. `run` must be running meanwhile."""

    def __init__(self, blocking: Redis) -> None:
        self._redis = blocking
        self._pubsub: PubSub | None = None
        self._fanout = Fanout()
        self._confirmed: dict[str, asyncio.Event] = {}
        self._wanted = asyncio.Event()

    @asynccontextmanager
    async def subscribe(self, channel_id: str) -> AsyncIterator[Subscription]:
        channel = keys.live(channel_id)
        with self._fanout.reader(channel) as subscription:
            try:
                await self._confirm(channel)
                yield subscription
            finally:
                await self._leave(channel)

    def nudge(self) -> None:
        self._fanout.drop_all()

    async def _confirm(self, channel: str) -> None:
        confirmed = self._confirmed.get(channel)
        if confirmed is None:
            confirmed = self._confirmed[channel] = asyncio.Event()
            if self._pubsub is None:
                self._wanted.set()  # the reader subscribes to all that is wanted when it connects
            else:
                with store_errors():
                    await self._pubsub.subscribe(channel)
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                await confirmed.wait()
        except TimeoutError as error:
            raise StoreUnavailable("no answer to a subscription", retry_after_s=2) from error

    async def _leave(self, channel: str) -> None:
        # Runs while the leaving reader still counts; the last one out unsubscribes.
        if self._fanout.count(channel) > 1:
            return
        self._confirmed.pop(channel, None)
        if self._pubsub is not None:
            try:
                with store_errors():
                    await self._pubsub.unsubscribe(channel)
            except StoreUnavailable:
                log.debug("unsubscribe_failed", channel=channel)

    async def run(self) -> None:
        """Read live messages, over one connection after another."""
        pause_s = 0.05
        while True:
            try:
                await self._read_one_connection()
                pause_s = 0.05
            except StoreUnavailable as error:
                log.warning("live_bus_lost", error=str(error.__cause__))
                pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
            finally:
                for confirmed in self._confirmed.values():
                    confirmed.clear()
                # Whatever was published meanwhile is in the logs only.
                self._fanout.drop_all()
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))

    async def _read_one_connection(self) -> None:
        await self._wait_until_wanted()
        async with self._redis.pubsub() as pubsub:
            with store_errors():
                subscribed: set[str] = set()
                while missing := self._confirmed.keys() - subscribed:
                    await pubsub.subscribe(*missing)
                    subscribed |= missing
                # No await since the last look at what is wanted: from here on readers subscribe themselves.
                self._pubsub = pubsub
                try:
                    await self._read(pubsub)
                finally:
                    # A subscription sent while this one closes would open a connection nobody reads.
                    self._pubsub = None

    async def _read(self, pubsub: PubSub) -> None:
        pinged = False
        while True:
            # The only reader of this connection: the client's own health checks would read it too.
            message = await pubsub.get_message(timeout=SILENCE_S)
            if message is not None:
                pinged = False
                self._dispatch(message)
            elif pinged:
                raise StoreUnavailable("the subscription connection is dead")
            else:
                await pubsub.ping()
                pinged = True

    async def _wait_until_wanted(self) -> None:
        while not self._confirmed:
            self._wanted.clear()
            await self._wanted.wait()

    def _dispatch(self, message: dict[str, object]) -> None:
        channel, data = message["channel"], message["data"]
        if not isinstance(channel, bytes):
            return  # a pong
        name = channel.decode()
        if message["type"] == "message":
            assert isinstance(data, bytes)
            try:
                self._fanout.publish(name, codec.decode_live(data))
            except DecodeError:
                log.warning("live_message_unreadable", channel=name)
        elif message["type"] == "subscribe" and name in self._confirmed:
            self._confirmed[name].set()
