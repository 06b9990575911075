"""One model's jobs, lanes and logs as plain data, with the atomic steps of the scripts."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial

from msgspec import to_builtins

from relais_common.jobs.errors import QueueFull, key_storage_full, storage_full
from relais_common.jobs.events import Cancelled, Completed, Failed, Usage
from relais_common.jobs.job import Job, OnDisconnect, Priority, Status, StopReason, Verdict
from relais_common.jobs.limits import Quota
from relais_common.jobs.records import ApiRecord, StoredAnswer
from relais_common.jobs.traces import Trace, Tracing, traces_full
from relais_common.queue import codec
from relais_common.queue.fanout import Fanout
from relais_common.queue.images import take_out
from relais_common.queue.ports import LiveBatch
from relais_common.queue.trace_codec import content_of
from relais_testing.memory.accounts import MemoryAccounts, measure
from relais_testing.memory.traces import Hands, MemoryTraces, published

PATIENCE = 8
BATCH_PATIENCE = 64
SHARE = 2
MOST_BYTES = 4 << 20
TAKER_S = 10.0
LOOK_AGAIN_S = 5.0
MOST_PREEMPTED = 8
MOST_LEFT = 8


def _account(job: Job) -> tuple[bool, str]:
    """Return the name under which a job counts towards its key's bounds and turns."""
    return job.priority is Priority.BATCH, job.key_id


def stopped(reason: StopReason) -> tuple[Status, list[bytes]]:
    """Return the end of a job that was asked to stop and that nobody holds."""
    match reason:
        case StopReason.DEADLINE:
            return Status.EXPIRED, [codec.EXPIRED_LINE]
        case StopReason.DISCONNECT:
            return Status.CANCELLED, [codec.DISCONNECTED_LINE]
        case StopReason.CLIENT:
            return Status.CANCELLED, [codec.CANCELLED_LINE]


@dataclass(frozen=True, slots=True)
class Share:
    """What a worker may take.

    Attributes:
        even: jobs that make its share even.
        at_home: the same, with jobs whose beginnings it had last.
        with_room: other workers that may be waited for.
    """

    even: int
    at_home: int
    with_room: Collection[str]


@dataclass(slots=True)
class Record:
    """A job and its state."""

    job: Job
    order: int
    accepted_at_s: float
    deadline_at_s: float
    quota: Quota
    hands: Hands
    tracing: Tracing | None = None
    shards: int = 1
    expected_bytes: int = 0
    status: Status = Status.QUEUED
    fence: int = 0
    failures: int = 0
    barren: int = 0
    preempted: int = 0
    worker: str = ""
    engaged: bool = False
    prompts: tuple[tuple[int, ...], ...] = ()
    model_revision: str = ""
    stop: StopReason | None = None
    ended_by: int | None = None
    started_at_s: float | None = None
    finished_at_s: float | None = None
    text: str | None = None
    vectors: bytes | None = None
    outcome: bytes | None = None
    replayed_as: str | None = None
    watchers: set[str] = field(default_factory=set)
    log: list[bytes] = field(default_factory=list)
    api_record: ApiRecord | None = None
    forgotten: bool = False

    @property
    def suspect(self) -> bool:
        """Return whether it must run alone: it was charged, or its last two takes gave no token."""
        return self.failures > 0 or self.barren > 1

    def stored_bytes(self, now_s: float) -> int:
        """Return the bytes held for it now."""
        logged = sum(map(len, self.log))
        if self.finished_at_s is None:
            return len(take_out(self.job).payload) + max(logged, self.expected_bytes)
        over_s = now_s - self.finished_at_s
        result = len((self.text or "").encode()) + len(self.vectors or b"")
        result = result if over_s < self.job.result_ttl_s else 0
        return result + (logged if over_s < self.job.log_ttl_s else 0)


class MemoryModel:
    """The state of one model. Every method is one atomic step: it does not await."""

    def __init__(
        self, clock: Callable[[], float], fanout: Fanout, ask_to_stop: Callable[[str], None]
    ) -> None:
        self._clock = clock
        self._fanout = fanout
        self._announce_stop = ask_to_stop
        self.records: dict[str, Record] = {}
        self.lanes: dict[Priority, dict[str, deque[str]]] = {one: {} for one in Priority}
        self.turns: dict[Priority, deque[str]] = {one: deque() for one in Priority}
        self.suspects: deque[str] = deque()
        self.dead: deque[str] = deque(maxlen=1000)
        self.inflight: dict[str, float] = {}
        self.deadlines: dict[str, float] = {}
        self.watched: dict[str, float] = {}
        self.present: Counter[str] = Counter()
        self.passed: dict[Priority, int] = dict.fromkeys(Priority, 0)
        self.memos: dict[str, tuple[str, list[str], tuple[str, ...]]] = {}
        self.idempotency: dict[tuple[str, str], tuple[str, str]] = {}
        self.accounts = MemoryAccounts(clock)
        self.traces = MemoryTraces(clock)
        self.service_s: float | None = None
        self.host: tuple[float, str] = (0.0, "")
        self.takers: dict[str, tuple[int, float]] = {}
        self.homes: dict[str, str] = {}
        """Which worker had a prompt's beginning last."""
        self.max_stored_bytes: int | None = None
        self._order = 0

    @property
    def waiting(self) -> int:
        return sum(record.status is Status.QUEUED for record in self.records.values())

    def add(self, job: Job, watch_grace_s: float, quota: Quota, tracing: Tracing | None) -> Record:
        self._order += 1
        now = self._clock()
        record = Record(job, self._order, now, now + job.deadline_s, quota, Hands(now), tracing)
        record.expected_bytes = self.expected_bytes(job)
        self.records[job.channel_id] = record
        self._lane(record).append(job.channel_id)
        self.deadlines[job.channel_id] = record.deadline_at_s
        if job.on_disconnect is OnDisconnect.CANCEL:
            self.watched[job.channel_id] = now + watch_grace_s
        return record

    def position(self, record: Record) -> int:
        if record.status is not Status.QUEUED:
            return 0
        lanes = self.lanes[record.job.priority]
        own_lane = lanes.get(record.job.key_id, deque())
        if record.job.channel_id not in own_lane:
            return 1
        own = own_lane.index(record.job.channel_id) + 1
        others = sum(len(lane) for lane in lanes.values()) - len(own_lane)
        higher = list(Priority)[: list(Priority).index(record.job.priority)]
        turns = own + self.runs(record.job.priority, record.job.key_id)
        ahead = own - 1 + min(others, turns * max(0, len(self.turns[record.job.priority]) - 1))
        ahead += sum(len(lane) for one in higher for lane in self.lanes[one].values())
        return max(1, min(ahead + 1, self.waiting))

    def estimated_wait_s(self, position: int) -> float | None:
        if self.service_s is None or position == 0:
            return None
        return round(position * self.service_s / max(1, len(self.inflight)), 3)

    def append(self, record: Record, first_seq: int, lines: list[bytes]) -> None:
        record.log.extend(lines)
        self._fanout.publish(record.job.channel_id, LiveBatch(first_seq, lines))

    def refuse_where_full(self, model: str, max_waiting: int, unfinished: int) -> None:
        """Raise QueueFull if too many wait; there is room again once a tenth has been served.

        Args:
            unfinished: of the key that asks; one that has none has room for one.
        """
        waiting = self.waiting
        if waiting >= max_waiting and unfinished > 0:
            raise QueueFull(
                f"{waiting} requests wait for {model!r} already",
                retry_after_s=self.estimated_wait_s(max(1, waiting // 10)) or 1.0,
            )

    @property
    def stored_bytes(self) -> int:
        now = self._clock()
        jobs = sum(record.stored_bytes(now) for record in self.records.values())
        images = sum(map(len, self._images().values()))
        return jobs + images + self.traces.stored_bytes

    def _images(self) -> dict[tuple[str, str], bytes]:
        """Return the images of unfinished jobs, each key's once, by key and hash."""
        return {
            (record.job.key_id, digest): image
            for record in self.records.values()
            if not record.status.is_terminal
            for digest, image in take_out(record.job).images.items()
        }

    @property
    def is_crowded(self) -> bool:
        """Return whether more is held than the bound that came with the last job."""
        return self.max_stored_bytes is not None and self.stored_bytes > self.max_stored_bytes

    def expected_bytes(self, job: Job) -> int:
        """Return the bytes to expect for its result."""
        if self.max_stored_bytes is None:
            return 0
        return min(job.expected_result_bytes, self.max_stored_bytes // 8)

    def refuse_where_crowded(self, job: Job) -> None:
        """Raise StorageFull or KeyStorageFull. A quarter of the bound is reserved for answers of accepted jobs."""
        if self.max_stored_bytes is None:
            return
        now, room = self._clock(), 0.75 * self.max_stored_bytes
        held: Counter[str] = Counter()
        for record in self.records.values():
            held[record.job.key_id] += record.stored_bytes(now)
        images, new = self._images(), take_out(job)
        for (key_id, _), image in images.items():
            held[key_id] += len(image)
        stored, own = self.stored_bytes, held[job.key_id]
        more = len(new.payload) + self.expected_bytes(job)
        more += sum(
            len(image) for digest, image in new.images.items() if (job.key_id, digest) not in images
        )
        if own + more <= SHARE * (room - stored - more):
            return
        holders = sum(map(bool, held.values()))
        if own * (holders + 1) > room:
            raise key_storage_full(job.model, own, retry_after_s=1.0)
        raise storage_full(job.model, stored, retry_after_s=1.0)

    def refuse_where_traces_wait(self, model: str, tracing: Tracing | None) -> None:
        """Raise TracesFull if too many traces wait for the database, or they take a quarter of the bound."""
        if tracing is None:
            return
        quarter = None if self.max_stored_bytes is None else self.max_stored_bytes / 4
        if len(self.traces) >= tracing.max_waiting or (
            quarter is not None and self.traces.stored_bytes > quarter
        ):
            raise traces_full(model, len(self.traces))

    def unfinished(self, job: Job) -> int:
        """Return its key's unfinished answers; lines of batches count separately."""
        return sum(
            record.job.answers
            for record in self.records.values()
            if _account(record.job) == _account(job) and not record.status.is_terminal
        )

    def conclude(
        self,
        record: Record,
        status: Status,
        lines: list[bytes],
        text: str,
        usage: Usage | None = None,
    ) -> None:
        """End a job; the last of `lines` is its terminal event. Without `usage`, tokens are counted in its log."""
        channel_id, was = record.job.channel_id, record.status
        self.append(record, len(record.log) + 1, lines)
        record.status, record.finished_at_s = status, self._clock()
        job = record.job
        measured, void_tokens = measure(record.log)
        usage = usage or measured
        self.accounts.settle(job.key_id, status, usage, record.quota)
        if record.tracing is not None:
            told = text or published(record.log)
            trace = self._trace(record, usage, void_tokens, lines, told)
            self.traces.add(trace, self._stored(record, lines, told))
        record.outcome, record.text, record.stop = lines[-1], text, None
        for ledger in (self.inflight, self.deadlines, self.watched):
            ledger.pop(channel_id, None)
        if was is Status.QUEUED:
            self._remove_from_lane(record)
        elif status is Status.COMPLETED:
            last = record.finished_at_s - record.hands.taken_at_s
            self.service_s = last if self.service_s is None else 0.9 * self.service_s + 0.1 * last

    def forget(self, channel_id: str) -> None:
        """Remove an ended job, and the names under which it is found."""
        del self.records[channel_id]
        if channel_id in self.dead:
            self.dead.remove(channel_id)
        self.forget_names(channel_id)

    def forget_names(self, channel_id: str) -> None:
        """Remove the names under which repeated calls find a job."""
        self.idempotency = {
            name: first for name, first in self.idempotency.items() if first[0] != channel_id
        }

    def _stored(self, record: Record, lines: list[bytes], told: str) -> StoredAnswer | None:
        kept, job = record.api_record, record.job
        if kept is None or not kept.stored:
            return None
        return StoredAnswer(job.channel_id, job.key_id, record.status, kept, told, lines[-1])

    def _trace(
        self, record: Record, usage: Usage, void_tokens: int, lines: list[bytes], told: str
    ) -> Trace:
        """Return the trace of a record that has just ended."""
        job, outcome = record.job, codec.decode_event(lines[-1])
        now = self._clock()
        if any(line.startswith(b"token ") for line in lines):
            record.hands.note_token(now)
        message = outcome.message if isinstance(outcome, Completed) else None
        ends = getattr(outcome, "answers", ())
        answers = [one.message for one in ends]
        counted = outcome.usage if isinstance(outcome, Completed) else usage
        lost = 0 if record.status is Status.COMPLETED else usage.output_tokens
        content = None
        if record.tracing is not None and record.tracing.content:
            content = content_of(
                codec.encode_job(job), told, to_builtins(message) or {}, to_builtins(answers)
            )
        return Trace(
            channel_id=job.channel_id,
            key_id=job.key_id,
            model=job.model,
            model_revision=record.model_revision or None,
            operation=job.operation,
            priority=job.priority,
            status=record.status,
            error_type=outcome.error.code if isinstance(outcome, Failed) else None,
            error_status=outcome.error.status if isinstance(outcome, Failed) else None,
            finish_reason=outcome.finish_reason if isinstance(outcome, Completed) else None,
            cancel_reason=outcome.reason.value if isinstance(outcome, Cancelled) else None,
            takes=record.fence,
            failures=record.failures,
            preemptions=record.preempted,
            answers=job.answers,
            longest_answer_tokens=max((one.output_tokens for one in ends), default=None),
            input_tokens=usage.input_tokens or 0,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            wasted_tokens=void_tokens + lost,
            reasoning_tokens=counted.reasoning_tokens or 0,
            images=counted.images,
            tool_calls=sum(len(one.tool_calls) for one in answers or [message] if one is not None),
            accepted_at_s=record.accepted_at_s,
            first_token_at_s=record.hands.first_token_at_s,
            finished_at_s=now,
            phases=record.hands.phases(now),
            content=content,
        )

    def requeue(self, record: Record) -> None:
        channel_id = record.job.channel_id
        self.inflight.pop(channel_id, None)
        self.deadlines[channel_id] = record.deadline_at_s
        record.status = Status.QUEUED
        if record.suspect:
            self.suspects.append(channel_id)
            return
        lane = self._lane(record, front=True)
        at = next(
            (i for i, other in enumerate(lane) if self.records[other].order > record.order),
            len(lane),
        )
        lane.insert(at, channel_id)

    def let_go(
        self,
        record: Record,
        *,
        max_failures: int | None,
        heard_at_s: float | None = None,
        blamed: bool = False,
    ) -> bool:
        """Decide what happens to a job that its holder no longer has; `max_failures` is set after a crash.

        Args:
            heard_at_s: when a holder that is gone was last heard of.
            blamed: it may be why its engine is stuck.

        Returns:
            True where it waits again.
        """
        record.hands.leave(self._clock(), heard_at_s)
        if record.stop is not None:
            self.conclude(record, *stopped(record.stop), "")
            return False
        if max_failures is not None and self._charge(record, blamed=blamed) >= max(1, max_failures):
            self.conclude(record, Status.FAILED, [codec.WORKER_LOST_LINE], "")
            self.dead.appendleft(record.job.channel_id)
            return False
        self.requeue(record)
        return True

    def _charge(self, record: Record, *, blamed: bool) -> int:
        """Charge a job whose worker died; return its charges, 0 if it was not charged this time."""
        if blamed:
            record.failures += 1
            return record.failures
        if record.hands.progressed:
            record.barren = 0
        elif record.engaged or record.suspect:
            record.failures += 1
            return record.failures
        else:
            record.barren += 1
        return 0

    def makes_way(self, worker_id: str, *, idle: bool) -> bool:
        """Return whether this worker becomes idle for a suspect."""
        until_s, host = self.host
        if host == worker_id and idle:
            self.host = (0.0, "")
        if idle or not self.suspects or (host != worker_id and until_s > self._clock()):
            return False
        self.host = (self._clock() + 10, worker_id)
        return True

    def share(self, worker_id: str, held: int, waited: int) -> Share:
        """Return this worker's share, among those that recently had room.

        What it has left before and nobody took it may take after all: its part first, then twice as much, ...
        """
        now_s = self._clock()
        self.takers = {one: it for one, it in self.takers.items() if it[1] >= now_s - TAKER_S}
        others = {one: it for one, it in self.takers.items() if one != worker_id}
        waiting, workers = self.waiting, 1 + len(others)
        level = math.ceil((held + waiting + sum(holds for holds, _ in others.values())) / workers)
        even = max(0, level - held)
        if waited:
            even = max(even, math.ceil(waiting / workers) * 2 ** (waited - 1))
        at_home = level + 1 + level // 2
        with_room = {one for one, (holds, _) in others.items() if holds < at_home}
        return Share(even, max(even, at_home - held), with_room)

    def home(self, job: Job) -> str | None:
        """Return the worker that last had the longest beginning of this job's prompt that anyone had."""
        return next((self.homes[one] for one in job.beginnings if one in self.homes), None)

    def home_to_wake(self, job: Job) -> str | None:
        """Return its home if that one asked lately and had room; None for anyone."""
        home = self.home(job)
        asked_at_s = self.takers.get(home or "", (0, 0.0))[1]
        is_there = len(self.takers) > 1 and self._clock() - asked_at_s <= TAKER_S
        return home if is_there else None

    def next_of(self, priority: Priority, key_id: str) -> Record:
        """Return the job whose turn it is in a lane."""
        return self.records[self.lanes[priority][key_id][0]]

    def note_room(self, worker_id: str, held: int | None) -> None:
        """Note how many jobs this worker holds while it has room; None if it has no room."""
        if held is None:
            self.takers.pop(worker_id, None)
        else:
            self.takers[worker_id] = (held, self._clock())

    def verdict(self, channel_id: str, fence: int) -> Verdict:
        record = self.records.get(channel_id)
        if record is None or record.status is not Status.RUNNING or record.fence != fence:
            return Verdict(held=False)
        return Verdict(held=True, tail=len(record.log), stop=record.stop)

    def ask_to_stop(self, record: Record, reason: StopReason) -> None:
        record.stop = record.stop or reason
        self._announce_stop(record.job.channel_id)

    def _has_turn(self, priority: Priority, without: Collection[str]) -> bool:
        return any(owner not in without for owner in self.turns[priority])

    def next_priority(self, without: Collection[str] = ()) -> Priority | None:
        chosen: Priority | None = None
        for priority in Priority:
            if self._has_turn(priority, without) and (
                chosen is None
                or self.passed[priority]
                >= (BATCH_PATIENCE if priority is Priority.BATCH else PATIENCE)
            ):
                chosen = priority
        return chosen

    def runs(self, priority: Priority, key_id: str) -> int:
        """Return the running answers of a key; lines of batches count separately."""
        account = (priority is Priority.BATCH, key_id)
        jobs = (self.records[one].job for one in self.inflight)
        return sum(job.answers for job in jobs if _account(job) == account)

    def next_owner(self, priority: Priority, without: Collection[str] = ()) -> str | None:
        """Return the key whose turn it is among those with the fewest running jobs."""
        wanted = (owner for owner in self.turns[priority] if owner not in without)
        return min(wanted, key=partial(self.runs, priority), default=None)

    def serve(
        self,
        priority: Priority,
        owner: str,
        worker_id: str,
        lease_s: float,
        without: Collection[str] = (),
    ) -> Record | None:
        """Hand over one job of this key; None if all have expired."""
        turns = self.turns[priority]
        turns.remove(owner)
        turns.append(owner)
        while (lane := self.lanes[priority].get(owner)) is not None:
            record = self.records[lane[0]]
            if self.hand_over(record, worker_id, lease_s):
                self.note_passed_over(priority, without)
                return record
        return None

    def preempt(
        self, offers: list[Record], worker_id: str, lease_s: float, without: Collection[str]
    ) -> tuple[list[Record], list[Record]]:
        """Hand places to keys that run at least two jobs fewer; return the jobs taken and the jobs put back."""
        taken: list[Record] = []
        gone: list[Record] = []
        order = list(Priority)
        for rank, priority in enumerate(order):
            while len(gone) < MOST_PREEMPTED:
                owner = self.next_owner(priority, without)
                if owner is None:
                    break
                runs = self.runs(priority, owner)
                weights = {
                    at: self._yields(one.job, priority)
                    for at, one in enumerate(offers)
                    if order.index(one.job.priority) >= rank
                }
                allowed = [at for at, weight in weights.items() if weight >= runs + 2]
                if not allowed:
                    break
                offer = offers[max(allowed, key=weights.__getitem__)]
                record = self.serve(priority, owner, worker_id, lease_s, without)
                if record is None:
                    break
                offers.remove(offer)
                offer.hands.leave(self._clock(), None)
                offer.preempted += 1
                self.requeue(offer)
                taken.append(record)
                gone.append(offer)
        return taken, gone

    def _yields(self, job: Job, to: Priority) -> float:
        """Return how readily a running job gives its place to this priority; lines of batches always do."""
        if job.priority is Priority.BATCH and to is not Priority.BATCH:
            return math.inf
        return self.runs(job.priority, job.key_id)

    def hand_over(self, record: Record, worker_id: str, lease_s: float) -> bool:
        now = self._clock()
        if record.deadline_at_s <= now:
            self.conclude(record, Status.EXPIRED, [codec.EXPIRED_LINE], "")
            return False
        self._remove_from_lane(record)
        record.fence += 1
        record.status, record.worker = Status.RUNNING, worker_id
        record.hands.take(now, lease_s)
        self.homes.update(dict.fromkeys(record.job.beginnings, worker_id))
        record.engaged = False
        self.inflight[record.job.channel_id] = now + lease_s
        return True

    def note_passed_over(self, chosen: Priority, without: Collection[str]) -> None:
        order = list(Priority)
        self.passed[chosen] = 0
        for priority in order[order.index(chosen) + 1 :]:
            if self._has_turn(priority, without):
                self.passed[priority] += 1

    def may_be_read(self, record: Record) -> bool:
        """Return whether a watcher of it is present, though its lease has expired."""
        return any(self.present[watcher] > 0 for watcher in record.watchers)

    def due(self, ledger: dict[str, float], limit: int) -> list[Record]:
        now = self._clock()
        late = sorted((at, channel_id) for channel_id, at in ledger.items() if at <= now)
        return [self.records[channel_id] for _, channel_id in late[:limit]]

    def seconds_left(self, record: Record) -> float:
        return record.deadline_at_s - self._clock()

    def seconds_queued(self, record: Record) -> float:
        return self._clock() - record.accepted_at_s

    def _lane(self, record: Record, *, front: bool = False) -> deque[str]:
        priority, owner = record.job.priority, record.job.key_id
        if owner not in self.lanes[priority]:
            self.lanes[priority][owner] = deque()
            if front:
                self.turns[priority].appendleft(owner)
            else:
                self.turns[priority].append(owner)
        return self.lanes[priority][owner]

    def _remove_from_lane(self, record: Record) -> None:
        channel_id, priority, owner = record.job.channel_id, record.job.priority, record.job.key_id
        if channel_id in self.suspects:
            self.suspects.remove(channel_id)
            return
        lane = self.lanes[priority].get(owner)
        if lane is not None and channel_id in lane:
            lane.remove(channel_id)
            if not lane:
                del self.lanes[priority][owner]
                self.turns[priority].remove(owner)
                if not self.turns[priority]:
                    self.passed[priority] = 0
