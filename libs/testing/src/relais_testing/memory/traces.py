"""Times of jobs, and traces in transit, as plain data: the steps of `traces.lua`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from relais_common.jobs.events import Restarted, Token
from relais_common.jobs.records import StoredAnswer
from relais_common.jobs.traces import SET_ASIDE_KEPT, Phases, Trace, TraceBatch, WaitingTrace
from relais_common.queue import codec


@dataclass(slots=True)
class Hands:
    """Who held a job, and for how long; times are seconds since the epoch."""

    waits_since_s: float
    lease_s: float = 0.0
    taken_at_s: float = 0.0
    token_at_s: float | None = None
    first_token_at_s: float | None = None
    stalls: bool = False
    held: bool = False
    spent: Phases = Phases(queue_s=0.0, prefill_s=0.0, decode_s=0.0, stalled_s=0.0)  # noqa: RUF009 - frozen

    @property
    def progressed(self) -> bool:
        """Return whether the current take, or the last one, produced a token."""
        return self.token_at_s is not None

    def take(self, now_s: float, lease_s: float) -> None:
        self.spent = self.phases(now_s)
        self.taken_at_s, self.lease_s, self.token_at_s, self.held = now_s, lease_s, None, True

    def note_token(self, now_s: float) -> None:
        if self.token_at_s is None:
            self.token_at_s = now_s
        if self.first_token_at_s is None:
            self.first_token_at_s = now_s

    def leave(self, now_s: float, heard_at_s: float | None) -> None:
        """Note that the holder gives it up now, or was last heard of at that time."""
        at_s = now_s if heard_at_s is None else heard_at_s
        at_s = min(now_s, max(at_s, self.taken_at_s, self.token_at_s or 0.0))
        self.spent = self.phases(at_s)
        self.waits_since_s, self.stalls, self.held = at_s, self.first_token_at_s is not None, False

    def phases(self, now_s: float) -> Phases:
        """Return the phases until now; a running job's waits are in `spent`."""
        spent = self.spent
        if self.held:
            first_s = now_s if self.token_at_s is None else self.token_at_s
            prefill_s, decode_s = first_s - self.taken_at_s, now_s - first_s
            queue_s = stalled_s = 0.0
        else:
            wait_s = max(0.0, now_s - self.waits_since_s)
            queue_s, stalled_s = (0.0, wait_s) if self.stalls else (wait_s, 0.0)
            prefill_s = decode_s = 0.0
        return Phases(
            queue_s=spent.queue_s + queue_s,
            prefill_s=spent.prefill_s + prefill_s,
            decode_s=spent.decode_s + decode_s,
            stalled_s=spent.stalled_s + stalled_s,
        )


class MemoryTraces:
    """Traces of one model that wait, with their readers and times."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._numbers = count(1)
        self._waiting: dict[str, WaitingTrace] = {}
        self._held: dict[str, tuple[str, float]] = {}
        self.aside: list[Trace] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest_s(self) -> float | None:
        if not self._waiting:
            return None
        oldest = next(iter(self._waiting.values()))
        return max(0.0, self._clock() - oldest.trace.finished_at_s)

    @property
    def stored_bytes(self) -> int:
        return sum(len(repr(one.trace)) for one in self._waiting.values())

    def add(self, trace: Trace, answer: StoredAnswer | None) -> None:
        number = str(next(self._numbers))
        self._waiting[number] = WaitingTrace(number, trace, answer)

    def collect(self, writer: str, limit: int, claim_after_s: float) -> TraceBatch:
        now = self._clock()
        own = [one for one, (holder, _) in self._held.items() if holder == writer]
        late = [
            one
            for one, (holder, since_s) in self._held.items()
            if holder != writer and now - since_s >= claim_after_s
        ]
        fresh = [one for one in self._waiting if one not in self._held]
        found = own + late + fresh
        chosen = found[:limit]
        self._held.update(dict.fromkeys(chosen, (writer, now)))
        return TraceBatch(tuple(self._waiting[one] for one in chosen), more=len(found) > limit)

    def forget(self, entry_ids: list[str]) -> list[Trace]:
        """Forget these traces; return those that were still there."""
        there = [self._waiting.pop(one).trace for one in entry_ids if one in self._waiting]
        for one in entry_ids:
            self._held.pop(one, None)
        return there

    def set_aside(self, entry_ids: list[str]) -> None:
        self.aside = [*self.aside, *self.forget(entry_ids)][-SET_ASIDE_KEPT:]


def published(log: list[bytes]) -> str:
    """Return the published part of an answer that nobody continues."""
    texts: list[str] = []
    for line in log:
        event = codec.decode_event(line)
        if isinstance(event, Token):
            texts += [event.text] if event.index == 0 else []
        elif isinstance(event, Restarted):
            texts.clear()
    return "".join(texts)
