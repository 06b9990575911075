"""Calls to one Redis: those of one turn of the event loop leave as one message."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Protocol

from redis import exceptions

from relais_common.queue.client.failover import is_read_only
from relais_common.queue.client.link import Link, opened
from relais_common.queue.client.packing import MESSAGE_BYTES, Argument, pack
from relais_common.runtime.lifecycle import BEATS, first_failure

RETRIES = 3
"""How often a call whose connection failed is sent again."""

SHORTEST_PAUSE_S = 0.05
"""Pause before reconnecting, doubled at each further try, and shortened at random to spread the processes' retries."""

_ASKING = pack(("ASKING",))


class Commands(Protocol):
    """Sends commands to Redis while `run` is running."""

    def send(self, *words: Argument) -> asyncio.Future[Any]:
        """Send a command at the end of this turn of the event loop, to the server that has its first key.

        Small commands may overtake large ones.

        Returns:
            The reply, as in protocol version 2; bytes are not decoded. It may raise redis-py's errors.
        """
        ...

    async def run(self) -> None:
        """Send commands and receive their replies, for ever."""
        ...


class _Call:
    """One call: its bytes in pieces, the future of its reply, and its failures so far."""

    __slots__ = ("answer", "asked_beat", "failures", "pieces")

    def __init__(self, pieces: list[bytes], answer: asyncio.Future[Any], asked_beat: int) -> None:
        self.pieces = pieces
        self.answer = answer
        self.asked_beat = asked_beat
        self.failures = 0

    def fail(self, error: Exception) -> None:
        if not self.answer.done():  # as it is where its caller has gone
            self.answer.set_exception(error)


class Calls:
    """Sends all calls over one connection, which `run` keeps open; each has its own reply, error and timeout.

    A cancelled call is not sent, or its reply is dropped. If the connection fails, unanswered calls are sent again over
    a new one. Whether Redis executed them is unknown, so every call must be safe to send twice. A call that fails too
    often, or gets no reply in time, fails alone. Blocking commands are not allowed: later calls would wait for them.

    Args:
        make_link: creates a new connection.
        timeout_s: how long one call may take before it counts as lost; see `lived_timeout`.
        connect_timeout_s: how long opening a connection may take.
    """

    def __init__(
        self,
        make_link: Callable[[], Link],
        *,
        timeout_s: float,
        connect_timeout_s: float,
    ) -> None:
        self._make_link = make_link
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Call] = []
        self._large: deque[_Call] = deque()  # those that wait
        self._sent: deque[_Call] = deque()  # in the order in which Redis answers
        self._asked = asyncio.Event()
        self._answers = 0
        self._beats = 0

    def send(self, *words: Argument) -> asyncio.Future[Any]:
        return self._send(pack(words))

    def send_asking(self, *words: Argument) -> asyncio.Future[Any]:
        """Send a command directly after `ASKING`, which counts for that command only."""
        return self._send([*_ASKING, *pack(words)])

    def _send(self, pieces: list[bytes]) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._queue(_Call(pieces, answer, self._beats))
        self._asked.set()
        return answer

    def _queue(self, call: _Call) -> None:
        (self._large if len(call.pieces) > 1 else self._waiting).append(call)

    async def run(self) -> None:
        """Send calls and receive replies, reconnecting as needed. Connects when there is something to send."""
        try:
            while True:
                while not (self._waiting or self._large):
                    self._asked.clear()
                    await self._asked.wait()
                self._answers = 0
                try:
                    await self._use_one_connection()
                except (exceptions.RedisError, OSError) as error:
                    self._note_lost(error)
                if failures := max((call.failures for call in self._unanswered()), default=0):
                    await asyncio.sleep(SHORTEST_PAUSE_S * 2**failures * random.random())
        finally:
            for call in self._unanswered():
                call.fail(exceptions.ConnectionError("the store was closed"))

    async def _use_one_connection(self) -> None:
        async with opened(self._make_link(), self._connect_timeout_s) as link:
            await first_failure(self._write(link), self._read(link), self._watch_times())

    async def _write(self, link: Link) -> None:
        self._asked.set()  # for calls that already wait
        while True:
            # By the time this resumes, everything else that runs in this turn has added its calls.
            await self._asked.wait()
            self._asked.clear()
            turn = self._next_turn()
            self._sent.extend(turn)
            await link.send_pieces([piece for call in turn for piece in call.pieces])
            if self._large:
                self._asked.set()
                await asyncio.sleep(0)  # else nothing is waited for while the system takes it all

    def _next_turn(self) -> list[_Call]:
        """Take what leaves together. Of large calls only the first few: small ones of later turns pass the others."""
        turn = [call for call in self._waiting if not call.answer.done()]
        self._waiting = []
        size = 0
        while self._large and size < MESSAGE_BYTES:
            call = self._large.popleft()
            if not call.answer.done():
                if call.pieces[0] is _ASKING[0]:
                    turn.append(self._asking(call))
                turn.append(call)
                size += sum(map(len, call.pieces))
        return turn

    def _asking(self, call: _Call) -> _Call:
        """Return what takes the reply to a call's `ASKING`; the call's own shows whether it worked."""
        nobody: asyncio.Future[Any] = self._loop.create_future()
        nobody.cancel()
        return _Call([], nobody, call.asked_beat)

    async def _read(self, link: Link) -> None:
        async with aclosing(link.receive()) as received:
            async for answers in received:
                for answer in answers:
                    self._hand_over(answer)

    def _hand_over(self, answer: Any) -> None:
        if isinstance(answer, exceptions.ConnectionError):
            raise answer  # Redis is loading, or rejects the password: every call is affected
        if is_read_only(answer):
            # Nothing was written, and every write would be refused. The address may lead to the new primary by now.
            raise exceptions.ConnectionError("the server has become a replica") from answer
        call = self._sent.popleft()
        self._answers += 1
        if isinstance(answer, Exception):
            call.fail(answer)
        elif not call.answer.done():
            call.answer.set_result(answer)

    async def _watch_times(self) -> None:
        while True:
            await asyncio.sleep(self._timeout_s / BEATS)
            self._beats += 1
            # Redis answers in this order, so one look a beat is enough; a large call may be older than those before it.
            if self._sent and self._is_late(self._sent[0]):
                raise TimeoutError

    def _is_late(self, call: _Call) -> bool:
        return self._beats - call.asked_beat > BEATS

    def _note_lost(self, error: Exception) -> None:
        """Queue unanswered calls again, except those that have failed too often."""
        timed_out = isinstance(error, TimeoutError | exceptions.TimeoutError)
        for call in self._charged(timed_out):
            call.failures += 1
            if timed_out:
                call.fail(exceptions.TimeoutError("no answer in time"))
            elif call.failures > RETRIES:
                call.fail(exceptions.ConnectionError(str(error)))
        unanswered = self._unanswered()
        self._sent.clear()
        self._waiting.clear()
        self._large.clear()
        for call in unanswered:
            self._queue(call)

    def _charged(self, timed_out: bool) -> list[_Call]:
        """Return the calls for which the lost connection counts as a failure."""
        calls = self._unanswered()
        if timed_out and self._sent:
            return [call for call in calls if self._is_late(call)]
        if not timed_out and self._answers:
            # The connection worked until now, so only the call that was being answered can have caused the loss.
            return [call for call in calls if self._sent and call is self._sent[0]]
        return calls

    def _unanswered(self) -> list[_Call]:
        calls = (*self._sent, *self._waiting, *self._large)
        return [call for call in calls if not call.answer.done()]
