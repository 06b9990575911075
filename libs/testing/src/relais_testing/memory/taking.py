"""One take from a model in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from relais_common.jobs.job import Priority, Status
from relais_common.queue import codec
from relais_common.queue.ports import TakeRequest
from relais_testing.memory.model import MOST_BYTES, MOST_LEFT, MemoryModel, Record, Share


@dataclass(frozen=True, slots=True)
class Handed:
    """The result of a take.

    Attributes:
        more: something waits for whoever asks next.
        homes: workers to which something was left.
    """

    records: list[Record]
    make_way: bool = False
    left: bool = False
    left_at_home: bool = False
    preempted: tuple[str, ...] = ()
    more: bool = False
    homes: Collection[str] = ()


def repeated(model: MemoryModel, request: TakeRequest) -> Handed | None:
    """Return what this call got before; None if it is new."""
    last_call, last_ids, last_gone = model.memos.get(request.worker_id, ("", [], ()))
    if last_call != request.call_id:
        return None
    records = [model.records[one] for one in last_ids if one in model.records]
    return Handed(
        [
            one
            for one in records
            if one.status is Status.RUNNING and one.worker == request.worker_id
        ],
        preempted=last_gone,
    )


def by_preemption(model: MemoryModel, request: TakeRequest) -> Handed:
    """Return jobs of other keys for the places that the worker offers."""
    verdicts = [(one, model.verdict(one.channel_id, one.fence)) for one in request.offers]
    offers = [model.records[one.channel_id] for one, it in verdicts if it.held and it.stop is None]
    taken, gone = model.preempt(offers, request.worker_id, request.lease_s, request.without)
    handed = Handed(taken, preempted=tuple(record.job.channel_id for record in gone))
    _remember(model, request, handed)
    return handed


def in_turn(model: MemoryModel, request: TakeRequest) -> Handed:
    """Return one suspect alone, or this worker's share."""
    worker_id, held = request.worker_id, request.held
    taken = _suspect(model, request) if request.idle and request.limit > 0 else []
    make_way = model.makes_way(worker_id, idle=request.idle)
    room = 0 if taken or make_way else request.limit
    crowded = model.is_crowded
    if crowded:
        room = min(room, 0 if model.inflight else 1)
    share = Share(room, room, set())
    if request.waited is not None:
        share = model.share(worker_id, held, request.waited)
    limit = min(room, share.even)
    turns = _turns(model, request, limit, min(room, share.at_home), share)
    taken += turns.taken
    without = {*request.without, *turns.at_home}
    left = bool(turns.over) or (limit < room and model.next_priority(without) is not None)
    answers = _answers(taken)
    model.note_room(worker_id, held + answers if answers < room else None)
    waits = model.next_priority(turns.at_home) is not None or (
        request.idle and bool(model.suspects)
    )
    homes = set(turns.at_home.values())
    handed = Handed(
        taken,
        make_way,
        left,
        left_at_home=bool(homes) and not left,
        more=waits and not crowded,
        homes=homes,
    )
    _remember(model, request, handed)
    return handed


def _suspect(model: MemoryModel, request: TakeRequest) -> list[Record]:
    while model.suspects:
        suspect = model.records[model.suspects[0]]
        if model.hand_over(suspect, request.worker_id, request.lease_s):
            return [suspect]
    return []


@dataclass(slots=True)
class _Turns:
    """What was taken in turn, and keys of which a job was left: to its home, or because this worker has its share."""

    taken: list[Record] = field(default_factory=list)
    at_home: dict[str, str] = field(default_factory=dict)
    over: dict[str, Priority] = field(default_factory=dict)


def _turns(model: MemoryModel, request: TakeRequest, limit: int, most: int, share: Share) -> _Turns:
    turns, payload_bytes = _Turns(), 0
    while (
        _answers(turns.taken) < most
        and payload_bytes < MOST_BYTES
        and len(turns.at_home) + len(turns.over) < MOST_LEFT
    ):
        without = {*request.without, *turns.at_home, *turns.over}
        priority = model.next_priority(without)
        owner = priority and model.next_owner(priority, without)
        if priority is None or owner is None:
            break
        # What is left to others goes before what is at home here and has a lower priority.
        if turns.over and priority not in turns.over.values():
            break
        following = model.next_of(priority, owner)
        home = model.home(following.job)
        stays = home in share.with_room and model.seconds_queued(following) < request.stays_s
        if home is not None and stays:
            turns.at_home[owner] = home
        elif _answers(turns.taken) >= limit and home != request.worker_id:
            turns.over[owner] = priority
        else:
            record = model.serve(priority, owner, request.worker_id, request.lease_s, without)
            if record is not None:
                turns.taken.append(record)
                payload_bytes += len(codec.encode_job(record.job))
    return turns


def _answers(taken: list[Record]) -> int:
    return sum(record.job.answers for record in taken)


def _remember(model: MemoryModel, request: TakeRequest, handed: Handed) -> None:
    if handed.records:
        ids = [record.job.channel_id for record in handed.records]
        model.memos[request.worker_id] = (request.call_id, ids, handed.preempted)
