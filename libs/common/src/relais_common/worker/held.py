"""The jobs that this worker holds."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
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
    """The jobs that this worker holds, by channel id.

    Attributes:
        suspicion: channel ids of which one may be why the engine is stuck; None if it is not.
        changed: set when a job has gone, or lines of batches are asked for their places.
        lines_asked: set by `ask_lines`, until somebody has heeded it.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, HeldJob] = {}
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
        self.changed.set()

    def ask_lines(self) -> None:
        """Note that a job waits which goes before lines of batches, if there are any."""
        if any(held.job.priority is Priority.BATCH for held in self._jobs.values()):
            self.lines_asked = True
            self.changed.set()

    @property
    def suspect(self) -> bool:
        """True while this worker holds a job that may have killed a worker before."""
        return any(held.taken.suspect for held in self._jobs.values())
