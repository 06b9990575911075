"""The jobs that this worker holds."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from itertools import accumulate

from relais_common.jobs.events import Prompt, Restarted, Token
from relais_common.jobs.job import Append, Job, Lease, Priority, StopReason, TakenJob, Verdict
from relais_common.queue import codec
from relais_common.worker.metrics import JobMetrics


class Abandon(Enum):
    """Reasons for which a worker gives up a job without ending it."""

    LOST = auto()
    """Another worker holds it now, or it has ended: send nothing more."""
    PREEMPTED = auto()
    """Its place was handed on to another key, and it waits again: send nothing more."""
    HAND_BACK = auto()
    """This worker is stopping: another one continues it."""


Halt = StopReason | Abandon
_TOKEN = codec.NAMES[Token]
LINES_PER_APPEND = 1000
MOST_UNSENT = 2 * LINES_PER_APPEND
LEFT_S = 1.0
"""How long room is left, once there is some, to a queue that this worker made way for."""

UNSERVED_S = 1.0
"""How long a queue goes without room until it counts as one that wants more: it may have filled since."""


class HeldJob:
    """One job, the events that this holder made for it, and how many of them the log has.

    The events stay in memory until the job ends, so that a log that came back short can be refilled.

    Attributes:
        metrics: to be told what becomes of it.
        places: how many of its answers have not ended; the last one counts until the job has gone.
        text: the (first) answer so far, in pieces.
        vectors: the result of a request for vectors, packed.
        pieces: number of token events that this holder published.
        tells_ids: whether all that they say came with token ids.
        can_continue: whether it can continue elsewhere exactly; None until its handler was asked.
    """

    def __init__(self, taken: TakenJob, metrics: JobMetrics) -> None:
        self.taken = taken
        self.metrics = metrics
        self.places = taken.job.answers
        self.text: list[str] = []
        self.vectors = b""
        self.pieces = 0
        self.tells_ids = True
        self.can_continue: bool | None = None
        self._base = taken.tail
        self._lines: list[bytes] = []
        self._tokens: list[int] = []  # of each line
        self._last_lines: tuple[bytes, ...] = ()
        self._acknowledged = 0
        self._heeded = asyncio.Event()
        self._halt: asyncio.Future[Halt] = asyncio.get_running_loop().create_future()
        self._lost = False
        self._ending = False

    @property
    def job(self) -> Job:
        """Return the job."""
        return self.taken.job

    @property
    def lease(self) -> Lease:
        """Return its lease."""
        return self.taken.lease

    @property
    def halted(self) -> asyncio.Future[Halt]:
        """A future that is done once this job must stop; its result is the reason."""
        return self._halt

    @property
    def base(self) -> int:
        """The number of the last event before this holder's."""
        return self._base

    @property
    def is_lost(self) -> bool:
        """True once another holder, or the job's end, has made this lease worthless."""
        return self._lost

    @property
    def next_seq(self) -> int:
        """The number of the next event."""
        return self._base + len(self._lines) + 1

    @property
    def is_silent(self) -> bool:
        """True until the log has an event of this holder."""
        return self._acknowledged == 0

    @property
    def is_ending(self) -> bool:
        """True once its end is being sent, or it must stop."""
        return self._ending or bool(self._last_lines) or self._halt.done()

    @property
    def logged_tokens(self) -> int:
        """How many tokens of this holder the log has."""
        return sum(self._tokens[: self._acknowledged])

    @property
    def is_far_ahead(self) -> bool:
        """True once the log lacks as many events as one call brings."""
        return len(self._lines) - self._acknowledged >= LINES_PER_APPEND

    @property
    def has_unsent(self) -> bool:
        """True while the log lacks events other than those sent with the job's end."""
        return self._acknowledged < len(self._lines) and not self._ending

    def add(self, event: Prompt | Token | Restarted) -> None:
        """Number an event, which a publisher must send."""
        self._lines.append(codec.encode_event(event))
        self._tokens.append(0)
        if isinstance(event, Token):
            self._tokens[-1] = len(event.token_ids)
            self._note_text(event)
            self.pieces += 1
            self.tells_ids = self.tells_ids and (bool(event.token_ids) or not event.says_something)
        elif isinstance(event, Restarted):
            self.text.clear()
            self.pieces, self.tells_ids = 0, True

    def add_last(self, event: Token) -> None:
        """Add the event after which the job ends.

        It must not be in the log without the end, because a successor would then generate more.
        """
        self._last_lines = (codec.encode_event(event),)
        self._note_text(event)

    def _note_text(self, event: Token) -> None:
        if event.index == 0:
            self.text.append(event.text)

    def note_started(self, tail: int) -> None:
        """Continue numbering after `started`, which the queue itself may have appended."""
        if not self._lines:
            self._base = tail

    def unsent(self, most: int = LINES_PER_APPEND, most_bytes: int | None = None) -> Append:
        """Return the first events, so many and of so many bytes at most, that the log has not acknowledged yet."""
        first = self._acknowledged
        lines = tuple(self._lines[first : first + most])
        if most_bytes is not None:
            lines = lines[: bisect_right(list(accumulate(map(len, lines))), most_bytes)]
        return Append(
            lease=self.lease,
            first_seq=self._base + first + 1,
            lines=lines,
            emits=any(line.startswith(_TOKEN) for line in lines),
        )

    async def until_mostly_sent(self) -> None:
        """Wait while the log lacks more than `MOST_UNSENT` events: an engine may be faster than Redis."""
        while len(self._lines) - self._acknowledged > MOST_UNSENT:
            self._heeded.clear()
            await self._heeded.wait()

    def ending(self) -> tuple[int, tuple[bytes, ...]]:
        """Return the events that the log lacks before the terminal event, and the number of the first.

        From here on they are sent only with the end.
        """
        self._ending = True
        first = self._acknowledged
        return self._base + first + 1, (*self._lines[first:], *self._last_lines)

    def halt(self, why: Halt) -> None:
        """Request that this job stops. The first reason counts, but a lost job is lost."""
        if why is Abandon.LOST:
            self.metrics.lost()
        elif why is Abandon.PREEMPTED:
            self.metrics.preempted()
        self._lost = self._lost or why in (Abandon.LOST, Abandon.PREEMPTED)
        if not self._halt.done():
            self._halt.set_result(why)

    def heed(self, verdict: Verdict, *, base: int | None = None) -> None:
        """Apply the queue's verdict on this lease.

        Args:
            base: its value when the call was made; None if it cannot have changed since. The answer to `start` may
                have overtaken this one, whose tail is then outdated, and does not mean that the log lost events.
        """
        if not verdict.held or verdict.tail < (self._base if base is None else base):
            self.halt(Abandon.LOST)
            return
        # May decrease: a Redis that lost its last second has a shorter log, which must be refilled.
        self._acknowledged = max(0, min(verdict.tail - self._base, len(self._lines)))
        self._heeded.set()
        if verdict.stop is not None:
            self.halt(verdict.stop)


class HeldJobs:
    """The jobs of one queue that this worker holds, by channel id.

    Args:
        hands: of the queues of its model together; None if it has only this one.

    Attributes:
        suspicion: channel ids of which one may be why the engine is stuck; None if it is not.
        changed: set when a job has gone, or lines of batches are asked for their places.
        lines_asked: set by `ask_lines`, until somebody has heeded it.
    """

    def __init__(self, hands: Hands | None = None) -> None:
        self._jobs: dict[str, HeldJob] = {}
        self.hands = hands or Hands()
        self.hands.queues.append(self)
        self.suspicion: frozenset[str] | None = None
        self.changed = asyncio.Event()
        self.lines_asked = False

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def places(self) -> int:
        """How many answers they have that have not ended."""
        return sum(held.places for held in self._jobs.values())

    def all(self) -> Sequence[HeldJob]:
        """Return all held jobs."""
        return list(self._jobs.values())

    def get(self, channel_id: str) -> HeldJob | None:
        """Return the job of a channel; None if it is not held."""
        return self._jobs.get(channel_id)

    def add(self, held: HeldJob) -> None:
        """Hold a job."""
        self._jobs[held.lease.channel_id] = held

    def remove(self, held: HeldJob) -> None:
        """Hold a job no longer."""
        # Only this lease: the job may be back here under a later one.
        if self._jobs.get(held.lease.channel_id) is held:
            del self._jobs[held.lease.channel_id]
        # The place may be for any queue of the model.
        for queue in self.hands.queues:
            queue.changed.set()

    def ask_lines(self) -> None:
        """Note that a job waits which goes before lines of batches, if there are any."""
        if any(held.job.priority is Priority.BATCH for held in self._jobs.values()):
            self.lines_asked = True
            self.changed.set()

    @property
    def suspect(self) -> bool:
        """True while one of them may have killed a worker before."""
        return any(held.taken.suspect for held in self._jobs.values())


class Hands:
    """What a worker holds of one model, and how the queues of the model share its room.

    Attributes:
        queues: what it holds of each.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.queues: list[HeldJobs] = []
        self._make_way_until_s = 0.0
        self._makes_way_for: HeldJobs | None = None
        self._left_until_s: float | None = None
        self._clock = clock
        self._shares: dict[HeldJobs, _Share] = {}

    @property
    def places(self) -> int:
        """How many answers they have that have not ended."""
        return sum(queue.places for queue in self.queues)

    def all(self) -> Sequence[HeldJob]:
        """Return all held jobs."""
        return [held for queue in self.queues for held in queue.all()]

    @property
    def suspect(self) -> bool:
        """True while this worker holds a job that may have killed a worker before."""
        return any(queue.suspect for queue in self.queues)

    @property
    def makes_way(self) -> bool:
        """True while this worker empties itself for a job that is to run alone."""
        return self._clock() < self._make_way_until_s

    def make_way(self, queue: HeldJobs, seconds: float) -> None:
        """Take nothing for so long, until this queue's job can run alone; 0: go on."""
        if seconds:
            self._make_way_until_s = self._clock() + seconds
            self._makes_way_for, self._left_until_s = queue, None
        elif self._makes_way_for is queue:
            self._make_way_until_s = 0.0
            self._makes_way_for = None

    def room(self, mine: HeldJobs, room_of: Callable[[int], int]) -> int:
        """Return for how many answers of a queue there is room.

        Where there are several queues, room is offered in parts. A queue that took all that it was offered wants more:
        until it has had it, no queue that holds more gets any. One place is kept for each queue that has none. While
        this worker holds nothing, one queue at a time takes: what it gets may have to run alone.

        Args:
            room_of: returns how many more the worker can begin while it holds so many.
        """
        if self.suspect or (self.makes_way and (self.places or self._makes_way_for is not mine)):
            return 0
        if self._is_left_to_another(mine, room_of):
            return 0
        others = [queue for queue in self.queues if queue is not mine]
        if not others:
            return room_of(mine.places)
        share, places = self._share(mine), self.places
        asked = sum(map(self.asks, others))
        if asked and not places:
            return 0
        free = room_of(places + asked)
        if free <= 0:
            if self._clock() - share.offered_s >= UNSERVED_S:
                share.wants_more = True
            return free
        if any(self._share(one).wants_more and self._is_before(one, mine) for one in others):
            return 0
        kept = sum(not (queue.places or self.asks(queue)) for queue in others)
        free = max(free - kept, 0 if mine.places else 1)
        return -(-free // len(self.queues))

    def _is_left_to_another(self, mine: HeldJobs, room_of: Callable[[int], int]) -> bool:
        """Return whether the queue that this worker made way for may take first, and learn whether it still does."""
        if self._makes_way_for in (None, mine) or self.makes_way or room_of(self.places) <= 0:
            return False
        if self._left_until_s is None:
            self._left_until_s = self._clock() + LEFT_S
        return self._clock() < self._left_until_s

    @contextmanager
    def taking(self, mine: HeldJobs, room: int) -> Iterator[Callable[[int], None]]:
        """Return a context in which the queue takes and begins what came; yields what is told how many answers."""
        share = self._share(mine)
        # Others have the room meanwhile, which may be long.
        share.wants_more = False
        # Without room, it asks whether places should change hands: it has been offered nothing.
        if room > 0:
            share.asked, share.offered_s = room, self._clock()

        def came(answers: int) -> None:
            share.asked = answers
            if room > 0:
                share.wants_more = answers >= room

        try:
            yield came
        finally:
            share.asked = 0
            for queue in self.queues:
                queue.changed.set()

    def asks(self, queue: HeldJobs) -> int:
        """Return the room that a take of this queue asks for now."""
        return self._share(queue).asked

    def _share(self, queue: HeldJobs) -> _Share:
        return self._shares.setdefault(queue, _Share())

    def _is_before(self, one: HeldJobs, other: HeldJobs) -> bool:
        a, b = self._share(one), self._share(other)
        return (one.places + a.asked, a.offered_s) < (other.places + b.asked, b.offered_s)


@dataclass(slots=True)
class _Share:
    """A queue's part of a worker's room.

    Attributes:
        asked: room that a take under way asks for.
        wants_more: its last take got all that it asked for, or it has been offered nothing for long.
        offered_s: when it last took, by the clock.
    """

    asked: int = 0
    wants_more: bool = False
    offered_s: float = 0.0
