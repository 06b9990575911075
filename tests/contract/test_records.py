"""What an API keeps with a request: readable while its result is, handed over at the end if it is stored, forgotten."""

from __future__ import annotations

import pytest

from relais_common.jobs.errors import EngineFailed
from relais_common.jobs.events import Failed
from relais_common.jobs.job import Idempotency, Lease, Status, StopReason
from relais_common.jobs.records import ApiRecord
from relais_common.queue import codec
from relais_testing.builders import COMPLETED, MODEL, make_job, token_line
from relais_testing.ports import Ports
from relais_testing.steps import append, crash, finish, start, take, take_one
from relais_testing.traced import TRACING, collect

RECORD = ApiRecord(b'{"head":1}', b"[]", stored=True)


async def running(ports: Ports, record: ApiRecord | None = RECORD) -> tuple[str, Lease]:
    job = make_job()
    await ports.intake.enqueue(job, max_waiting=9, tracing=TRACING, record=record)
    taken = await take_one(ports)
    await start(ports, taken.lease)
    return job.channel_id, taken.lease


@pytest.mark.parametrize("record", [RECORD, ApiRecord(b"h", b"i", stored=False), None])
async def test_record_is_kept_as_long_as_the_result(ports: Ports, record: ApiRecord | None) -> None:
    channel_id, lease = await running(ports, record)
    assert await ports.intake.record(channel_id) == record
    await finish(ports, lease, 3)
    assert await ports.intake.record(channel_id) == record
    assert await ports.intake.record("org~2fmodel.0123456789012345678901") is None


async def test_stored_one_goes_with_the_answer_to_whoever_writes_traces(ports: Ports) -> None:
    channel_id, lease = await running(ports)
    await append(ports, lease, 3, token_line("a", 1))
    await ports.source.finish(lease, first_seq=4, terminal=COMPLETED, text="a")
    (one,) = await collect(ports)
    assert one.answer is not None
    assert (one.answer.channel_id, one.answer.key_id) == (channel_id, one.trace.key_id)
    assert (one.answer.status, one.answer.text) == (Status.COMPLETED, "a")
    assert one.answer.record == RECORD
    assert codec.decode_event(one.answer.outcome) == COMPLETED


async def test_what_was_published_goes_with_one_that_nobody_finished(ports: Ports) -> None:
    _, lease = await running(ports)
    await append(ports, lease, 3, token_line("a", 1), token_line("b", 2))
    failed = Failed(EngineFailed("no").info)
    await ports.source.finish(lease, first_seq=5, terminal=failed, text="")
    (one,) = await collect(ports)
    assert one.answer is not None
    assert (one.answer.status, one.answer.text) == (Status.FAILED, "ab")


async def test_others_leave_their_traces_alone(ports: Ports) -> None:
    _, lease = await running(ports, ApiRecord(b"h", b"i", stored=False))
    await finish(ports, lease, 3)
    (one,) = await collect(ports)
    assert one.answer is None


async def test_forgotten_request_is_unknown(ports: Ports) -> None:
    channel_id, lease = await running(ports)
    await finish(ports, lease, 3)
    for _ in range(2):
        await ports.intake.forget(channel_id)
        assert await ports.intake.state(channel_id) is None
        assert await ports.intake.record(channel_id) is None
        assert await ports.log.read(channel_id, after=0, limit=9) == []


async def test_forgotten_request_is_not_what_a_repeated_call_finds(ports: Ports) -> None:
    again = Idempotency("key", "body")
    job = make_job()
    await ports.intake.enqueue(job, max_waiting=9, idempotency=again, record=RECORD)
    (taken,) = await take(ports, call_id="this")
    await finish(ports, taken.lease, 2)
    await ports.intake.forget(job.channel_id)
    assert await take(ports, call_id="this") == []
    accepted = await ports.intake.enqueue(make_job(), max_waiting=9, idempotency=again)
    assert not accepted.duplicate


async def test_forgotten_dead_letter_is_none(ports: Ports) -> None:
    channel_id, lease = await running(ports)
    await crash(ports, lease, max_failures=1)
    assert len(await ports.inspector.dead_letters(MODEL, limit=9)) == 1
    await ports.intake.forget(channel_id)
    assert await ports.inspector.dead_letters(MODEL, limit=9) == []
    assert await ports.inspector.dead_letter(channel_id) is None


async def test_one_that_runs_ends_without_its_record(ports: Ports) -> None:
    channel_id, lease = await running(ports)
    await ports.intake.forget(channel_id)
    assert await ports.intake.record(channel_id) is None
    assert await ports.intake.cancel(channel_id, StopReason.CLIENT) is Status.RUNNING
    await finish(ports, lease, 3)
    (one,) = await collect(ports)
    assert (one.trace.channel_id, one.answer) == (channel_id, None)


async def test_one_that_runs_is_unknown_at_once(ports: Ports) -> None:
    again = Idempotency("key", "body")
    job = make_job()
    await ports.intake.enqueue(job, max_waiting=9, idempotency=again, record=RECORD)
    lease = (await take_one(ports)).lease
    await ports.intake.forget(job.channel_id)
    assert await ports.intake.state(job.channel_id) is None
    assert await ports.log.look(job.channel_id, after=0, limit=9) is None
    accepted = await ports.intake.enqueue(make_job(), max_waiting=9, idempotency=again)
    assert not accepted.duplicate
    await finish(ports, lease, 2)
    assert await ports.intake.state(job.channel_id) is None
    accepted = await ports.intake.enqueue(make_job(), max_waiting=9, idempotency=again)
    assert accepted.duplicate
