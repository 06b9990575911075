"""The log of a channel: gapless, ordered, free of duplicates, written by its holder alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.errors import ErrorInfo
from relais_common.jobs.events import (
    Cancelled,
    Completed,
    Expired,
    Failed,
    Started,
    Terminal,
    Timings,
    Usage,
)
from relais_common.jobs.job import Append, ChannelState, Lease, Status, StopReason, Verdict
from relais_common.queue import codec
from relais_common.queue.ports import Look
from relais_testing.builders import COMPLETED, MODEL, make_job, token_line
from relais_testing.ports import Ports
from relais_testing.steps import (
    append,
    crash,
    enqueue,
    events,
    finish,
    names,
    read_all,
    running,
    start,
    take,
    take_one,
)


async def test_append_adds_lines_in_order(ports: Ports) -> None:
    taken = await running(ports)
    lines = [token_line(text) for text in "abc"]
    assert await append(ports, taken.lease, 2, *lines) == Verdict(held=True, tail=4)
    assert (await read_all(ports, taken.job.channel_id))[1:] == lines


async def test_append_again_writes_nothing(ports: Ports) -> None:
    taken = await running(ports)
    lines = [token_line(text) for text in "abc"]
    for _ in range(3):
        assert await append(ports, taken.lease, 2, *lines) == Verdict(held=True, tail=4)
    assert len(await read_all(ports, taken.job.channel_id)) == 4


async def test_append_that_overlaps_writes_the_new_lines_only(ports: Ports) -> None:
    taken = await running(ports)
    lines = [token_line(text) for text in "abcde"]
    await append(ports, taken.lease, 2, *lines[:3])
    assert (await append(ports, taken.lease, 3, *lines[1:])).tail == 6
    assert (await read_all(ports, taken.job.channel_id))[1:] == lines


async def test_append_past_the_tail_writes_nothing_and_tells_the_tail(ports: Ports) -> None:
    taken = await running(ports)
    assert await append(ports, taken.lease, 3) == Verdict(held=True, tail=1)
    assert await append(ports, taken.lease, 900) == Verdict(held=True, tail=1)
    assert len(await read_all(ports, taken.job.channel_id)) == 1


async def test_append_of_no_lines_tells_the_tail(ports: Ports) -> None:
    taken = await running(ports)
    item = Append(taken.lease, 2, ())
    assert await ports.source.append([item]) == [Verdict(held=True, tail=1)]


async def test_append_of_more_lines_than_lua_can_unpack(ports: Ports) -> None:
    taken = await running(ports)
    lines = [token_line(str(number)) for number in range(5000)]
    assert (await append(ports, taken.lease, 2, *lines)).tail == 5001
    assert (await read_all(ports, taken.job.channel_id))[1:] == lines


async def test_append_to_several_channels_answers_each(ports: Ports) -> None:
    await enqueue(ports, *[make_job() for _ in range(3)])
    one, two, three = await take(ports, 3)
    await finish(ports, two.lease, 2)
    items = [
        Append(one.lease, 2, (token_line("a"), token_line("b"))),
        Append(two.lease, 2, (token_line("late"),)),
        Append(Lease(three.job.channel_id, 99), 2, (token_line("stranger"),)),
        Append(three.lease, 2, (token_line("c"),)),
    ]
    assert await ports.source.append(items) == [
        Verdict(held=True, tail=3),
        Verdict(held=False),
        Verdict(held=False),
        Verdict(held=True, tail=2),
    ]


async def test_two_appends_to_one_channel_in_one_call_follow_each_other(ports: Ports) -> None:
    taken = await running(ports)
    items = [
        Append(taken.lease, 2, (token_line("a"),)),
        Append(taken.lease, 3, (token_line("b"),)),
    ]
    assert [verdict.tail for verdict in await ports.source.append(items)] == [2, 3]


async def test_append_with_a_wrong_fence_is_refused(ports: Ports) -> None:
    taken = await running(ports)
    for fence in (0, 2, 99):
        lease = Lease(taken.job.channel_id, fence)
        assert await append(ports, lease, 2) == Verdict(held=False)
    assert await names(ports, taken.job.channel_id) == ["queued"]


async def test_append_after_the_end_is_refused(ports: Ports) -> None:
    taken = await running(ports)
    await finish(ports, taken.lease, 2)
    assert await append(ports, taken.lease, 3) == Verdict(held=False)
    assert await names(ports, taken.job.channel_id) == ["queued", "completed"]


async def test_line_breaks_in_text_do_not_break_lines(ports: Ports) -> None:
    taken = await running(ports)
    line = token_line("a\n\nb\r\u2028é")
    await append(ports, taken.lease, 2, line)
    assert (await read_all(ports, taken.job.channel_id))[1] == line


async def test_start_appends_started_once_over_retries_and_takes(ports: Ports) -> None:
    taken = await running(ports)
    for number in range(3):
        assert await start(ports, taken.lease) == Verdict(held=True, tail=2)
        assert await start(ports, taken.lease) == Verdict(held=True, tail=2)
        await crash(ports, taken.lease, max_failures=99)
        taken = await take_one(ports, worker_id=f"w{number}", idle=True)
    assert await events(ports, taken.job.channel_id) == [
        (await events(ports, taken.job.channel_id))[0],
        Started(input_tokens=3),
    ]


TERMINALS: list[tuple[Terminal, Status]] = [
    (COMPLETED, Status.COMPLETED),
    (
        Completed("length", Usage(1, 0), Timings(queue_s=0.0, prefill_s=0.0, decode_s=0.0), 7),
        Status.COMPLETED,
    ),
    (Failed(ErrorInfo("no", "invalid_request_error", "prompt", "x", 400)), Status.FAILED),
    (Cancelled(StopReason.DISCONNECT), Status.CANCELLED),
    (Expired(), Status.EXPIRED),
]


@pytest.mark.parametrize(("terminal", "status"), TERMINALS, ids=lambda value: str(value)[:20])
async def test_holder_ends_its_job(ports: Ports, terminal: Terminal, status: Status) -> None:
    taken = await running(ports)
    assert await finish(ports, taken.lease, 2, terminal) == Verdict(held=True, tail=2)
    assert (await events(ports, taken.job.channel_id))[-1] == terminal
    state = await ports.intake.state(taken.job.channel_id)
    assert state is not None
    assert state.status is status
    assert (await ports.intake.depth(MODEL)).running == 0


async def test_finish_again_writes_nothing(ports: Ports) -> None:
    taken = await running(ports)
    for _ in range(3):
        assert await finish(ports, taken.lease, 2) == Verdict(held=True, tail=2)
    assert await names(ports, taken.job.channel_id) == ["queued", "completed"]


async def test_finish_with_a_short_log_does_nothing_and_tells_the_tail(ports: Ports) -> None:
    taken = await running(ports)
    assert await finish(ports, taken.lease, 5) == Verdict(held=True, tail=1)
    state = await ports.intake.state(taken.job.channel_id)
    assert state is not None
    assert state.status is Status.RUNNING
    await append(ports, taken.lease, 2, *[token_line(text) for text in "abc"])
    assert await finish(ports, taken.lease, 5) == Verdict(held=True, tail=5)


async def test_finish_by_a_stale_fence_is_refused(ports: Ports) -> None:
    old = await running(ports)
    await crash(ports, old.lease)
    new = await take_one(ports, worker_id="w2")
    assert await finish(ports, old.lease, 2) == Verdict(held=False)
    assert await finish(ports, new.lease, 2) == Verdict(held=True, tail=2)
    assert await finish(ports, old.lease, 2) == Verdict(held=False)
    assert await names(ports, new.job.channel_id) == ["queued", "completed"]


async def test_finish_of_an_unknown_channel_is_refused(ports: Ports) -> None:
    lease = Lease(new_channel_id(MODEL), 1)
    assert await finish(ports, lease, 2) == Verdict(held=False)
    assert await start(ports, lease) == Verdict(held=False)
    assert await append(ports, lease, 1) == Verdict(held=False)


async def test_two_holders_write_one_gapless_log(ports: Ports) -> None:
    first = await running(ports)
    await start(ports, first.lease)
    await append(ports, first.lease, 3, token_line("a"), token_line("b"))
    await crash(ports, first.lease)
    second = await take_one(ports, worker_id="w2")
    answers = await asyncio.gather(
        append(ports, first.lease, 5, token_line("ghost")),
        append(ports, second.lease, 5, token_line("c")),
    )
    assert [answer.held for answer in answers] == [False, True]
    await finish(ports, second.lease, 6)
    assert await names(ports, first.job.channel_id) == [
        "queued",
        "started",
        "token",
        "token",
        "token",
        "completed",
    ]


async def test_read_goes_on_after_any_event(ports: Ports) -> None:
    taken = await running(ports)
    await append(ports, taken.lease, 2, *[token_line(text) for text in "abcd"])
    channel_id = taken.job.channel_id
    lines = await read_all(ports, channel_id)
    assert len(lines) == 5
    for after in range(6):
        assert await ports.log.read(channel_id, after=after, limit=2) == lines[after : after + 2]
    assert await ports.log.read(channel_id, after=99, limit=2) == []


async def test_read_of_no_lines_gives_none(ports: Ports) -> None:
    taken = await running(ports)
    assert await ports.log.read(taken.job.channel_id, after=0, limit=0) == []


async def test_log_of_an_unknown_channel_is_empty(ports: Ports) -> None:
    assert await read_all(ports, new_channel_id(MODEL)) == []


async def test_look_gives_events_and_where_the_channel_stands(ports: Ports) -> None:
    taken = await running(ports)
    await append(ports, taken.lease, 2, *[token_line(text) for text in "abcd"])
    channel_id = taken.job.channel_id
    lines = await read_all(ports, channel_id)
    for after in range(6):
        look = await ports.log.look(channel_id, after=after, limit=2)
        assert look == Look(await known_state(ports, channel_id), lines[after : after + 2])


async def test_look_at_an_end_leaves_its_text_out(ports: Ports) -> None:
    taken = await running(ports)
    channel_id = taken.job.channel_id
    await finish(ports, taken.lease, 2, text="long")
    state = await known_state(ports, channel_id)
    assert state.text == "long"
    look = await ports.log.look(channel_id, after=1, limit=1)
    assert look == Look(replace(state, text=None), [codec.encode_event(COMPLETED)])
    assert await ports.log.look(channel_id, after=2, limit=1) == Look(look.state, [])


async def test_look_at_a_waiting_job_has_its_place(ports: Ports) -> None:
    ahead, job = make_job(), make_job()
    await enqueue(ports, ahead, job)
    look = await ports.log.look(job.channel_id, after=1, limit=1)
    assert look is not None
    assert (look.state.status, look.state.queue_position, look.lines) == (Status.QUEUED, 2, [])


async def test_look_at_an_unknown_channel_gives_none(ports: Ports) -> None:
    assert await ports.log.look(new_channel_id(MODEL), after=0, limit=1) is None


async def known_state(ports: Ports, channel_id: str) -> ChannelState:
    state = await ports.intake.state(channel_id)
    assert state is not None
    return state
