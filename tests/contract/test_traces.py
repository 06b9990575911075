"""Every end of a request hands over one trace, in the step that ends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.chat import FunctionCall, Message, ToolCall
from relais_common.jobs.errors import EngineFailed, EngineRefused, KeyStorageFull, TracesFull
from relais_common.jobs.events import (
    AnswerEnd,
    Cancelled,
    Completed,
    Expired,
    Failed,
    Restarted,
    Terminal,
    Timings,
    Usage,
)
from relais_common.jobs.job import (
    Embedding,
    OnDisconnect,
    OnWorkerLoss,
    Operation,
    Priority,
    Status,
    StopReason,
    TakenJob,
)
from relais_common.jobs.traces import Trace, Tracing
from relais_common.queue import codec, keys
from relais_common.queue.redis_store import RedisStore
from relais_testing.builders import COMPLETED, MODEL, make_job, token_line
from relais_testing.ports import Ports, redis_ports
from relais_testing.steps import (
    PAST_S,
    append,
    crash,
    enqueue,
    finish,
    let_expire,
    reap,
    start,
    take,
    take_one,
)
from relais_testing.traced import (
    TRACING,
    WITH_CONTENT,
    collect,
    enqueue_traced,
    running_traced,
    the_trace,
)
from relais_testing.waiting import LIVENESS_S, wait_until

FAILED = Failed(EngineFailed("the engine failed").info)
REFUSED = Failed(EngineRefused("too long").info)
CLOSE = 1e-5  # of seconds that Redis gives with six decimals
PAUSE_S = 0.03  # long enough to be told from none


def sums_up(trace: Trace) -> bool:
    """The phases leave nothing out, and count nothing twice."""
    return abs(trace.e2e_s - (trace.finished_at_s - trace.accepted_at_s)) < CLOSE


async def some_of_it(ports: Ports, taken: TakenJob) -> None:
    """The engine has the prompt of three tokens, and gave three."""
    await start(ports, taken.lease)
    await append(ports, taken.lease, 3, token_line("a", 1), token_line("b", 2, 3))


# Every end


@pytest.mark.parametrize(
    ("terminal", "status", "error_type", "finish_reason", "cancel_reason"),
    [
        (COMPLETED, Status.COMPLETED, None, "stop", None),
        (replace(COMPLETED, finish_reason="length"), Status.COMPLETED, None, "length", None),
        (FAILED, Status.FAILED, "engine_error", None, None),
        (REFUSED, Status.FAILED, "invalid_value", None, None),
        (Cancelled(StopReason.CLIENT), Status.CANCELLED, None, None, "client"),
        (Cancelled(StopReason.DISCONNECT), Status.CANCELLED, None, None, "disconnect"),
        (Expired(), Status.EXPIRED, None, None, None),
    ],
)
async def test_what_a_worker_ends_is_told_as_it_ended(
    ports: Ports,
    terminal: Terminal,
    status: Status,
    error_type: str | None,
    finish_reason: str | None,
    cancel_reason: str | None,
) -> None:
    job = make_job("key-b", priority=Priority.LOW)
    taken = await running_traced(ports, job)
    await some_of_it(ports, taken)
    await finish(ports, taken.lease, 5, terminal)
    trace = await the_trace(ports)
    assert (trace.status, trace.error_type) == (status, error_type)
    assert trace.error_status == (terminal.error.status if isinstance(terminal, Failed) else None)
    assert (trace.finish_reason, trace.cancel_reason) == (finish_reason, cancel_reason)
    assert (trace.channel_id, trace.key_id, trace.model) == (job.channel_id, "key-b", MODEL)
    assert (trace.operation, trace.priority) == (Operation.CHAT, Priority.LOW)
    assert (trace.model_revision, trace.takes, trace.failures) == ("r1", 1, 0)
    assert trace.content is None
    assert sums_up(trace)


async def cancel_waiting(ports: Ports) -> None:
    await enqueue_traced(ports, job := make_job())
    await ports.intake.cancel(job.channel_id, StopReason.CLIENT)


async def lose_reader_while_waiting(ports: Ports) -> None:
    await enqueue_traced(ports, job := make_job(on_disconnect=OnDisconnect.CANCEL))
    await ports.intake.watch(job.channel_id, lease_s=PAST_S)
    await reap(ports)


async def expire_at_the_reaper(ports: Ports) -> None:
    await enqueue_traced(ports, make_job(deadline_s=PAST_S))
    await reap(ports)


async def expire_at_the_take(ports: Ports) -> None:
    await enqueue_traced(ports, make_job(deadline_s=PAST_S))
    assert await take(ports) == []


async def cancel_and_hand_back(ports: Ports) -> None:
    taken = await running_traced(ports)
    await ports.intake.cancel(taken.job.channel_id, StopReason.CLIENT)
    await ports.source.release([taken.lease])


async def cancel_and_die(ports: Ports) -> None:
    taken = await running_traced(ports)
    await ports.intake.cancel(taken.job.channel_id, StopReason.CLIENT)
    await crash(ports, taken.lease)


async def become_a_dead_letter(ports: Ports) -> None:
    taken = await running_traced(ports)
    await start(ports, taken.lease)
    await crash(ports, taken.lease, max_failures=1)


ENDS: list[tuple[Callable[[Ports], Awaitable[None]], Status, str | None]] = [
    (cancel_waiting, Status.CANCELLED, None),
    (lose_reader_while_waiting, Status.CANCELLED, None),
    (expire_at_the_reaper, Status.EXPIRED, None),
    (expire_at_the_take, Status.EXPIRED, None),
    (cancel_and_hand_back, Status.CANCELLED, None),
    (cancel_and_die, Status.CANCELLED, None),
    (become_a_dead_letter, Status.FAILED, "worker_lost"),
]


@pytest.mark.parametrize(("end", "status", "error_type"), ENDS)
async def test_what_nobody_is_left_to_end_is_told_too(
    ports: Ports,
    end: Callable[[Ports], Awaitable[None]],
    status: Status,
    error_type: str | None,
) -> None:
    await end(ports)
    trace = await the_trace(ports)
    assert (trace.status, trace.error_type) == (status, error_type)
    assert trace.failures == int(error_type is not None)
    assert (trace.first_token_at_s, trace.ttft_s, trace.tpot_s) == (None, None, None)
    assert sums_up(trace)


async def test_a_request_that_no_worker_can_read_is_told_too(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    await enqueue_traced(ports, job := make_job(), tracing=WITH_CONTENT)
    await redis_store.redis.hset(keys.job(job.channel_id), "payload", b"\xff{")
    assert await take(ports) == []
    trace = await the_trace(ports)
    assert (trace.status, trace.error_type) == (Status.FAILED, "unreadable_request")
    assert trace.content == {"answer": ""}


async def test_each_step_sent_twice_hands_over_one_trace(ports: Ports) -> None:
    first, second, third = await take_three(ports)
    for _ in range(2):
        await finish(ports, first.lease, 2)
        await ports.intake.cancel(second.job.channel_id, StopReason.CLIENT)
        await ports.source.release([second.lease])
        await start(ports, third.lease)
        await ports.source.renew([third.lease], lease_s=PAST_S)
        await reap(ports, max_failures=1)
    traces = [one.trace for one in await collect(ports)]
    assert [one.channel_id for one in traces] == [
        one.job.channel_id for one in (first, second, third)
    ]


async def take_three(ports: Ports) -> list[TakenJob]:
    await enqueue_traced(ports, *[make_job() for _ in range(3)])
    return await take(ports, 3)


async def test_a_replayed_letter_has_a_trace_of_its_own(ports: Ports) -> None:
    await become_a_dead_letter(ports)
    letter = await the_trace(ports)
    new = new_channel_id(MODEL)
    await ports.inspector.replay(letter.channel_id, new_channel_id=new, max_waiting=9)
    await ports.intake.cancel(new, StopReason.CLIENT)
    assert (await the_trace(ports)).channel_id == new


async def test_a_request_without_tracing_leaves_none(ports: Ports) -> None:
    await enqueue(ports, make_job())
    await finish(ports, (await take_one(ports)).lease, 2)
    assert await collect(ports) == []
    view = await ports.inspector.queue(MODEL, top_keys=0)
    assert (view.waiting_traces, view.oldest_trace_s) == (0, None)


# Tokens


async def test_tokens_of_a_completed_request_are_what_its_worker_counted(ports: Ports) -> None:
    taken = await running_traced(ports)
    await some_of_it(ports, taken)
    usage = Usage(input_tokens=30, output_tokens=4, cached_tokens=16)
    await finish(ports, taken.lease, 5, replace(COMPLETED, usage=usage))
    trace = await the_trace(ports)
    assert (trace.input_tokens, trace.output_tokens, trace.cached_tokens) == (30, 4, 16)
    assert trace.wasted_tokens == 0


async def test_reasoning_and_calls_of_an_answer_are_counted(ports: Ports) -> None:
    call = ToolCall("c", FunctionCall("f", "{}"))
    usage = Usage(input_tokens=3, output_tokens=4, reasoning_tokens=2)
    message = Message("assistant", reasoning="hm", tool_calls=(call, call))
    taken = await running_traced(ports)
    await some_of_it(ports, taken)
    await finish(ports, taken.lease, 5, replace(COMPLETED, usage=usage, message=message))
    trace = await the_trace(ports)
    assert (trace.reasoning_tokens, trace.tool_calls) == (2, 2)


async def test_a_trace_tells_how_many_answers_there_were_and_the_longest(ports: Ports) -> None:
    ends = tuple(AnswerEnd("stop", tokens, message=Message("assistant")) for tokens in (2, 7))
    taken = await running_traced(ports, make_job(n=2))
    await some_of_it(ports, taken)
    await finish(ports, taken.lease, 5, replace(COMPLETED, usage=Usage(3, 9), answers=ends))
    trace = await the_trace(ports)
    assert (trace.output_tokens, trace.answers, trace.longest_answer_tokens) == (9, 2, 7)


async def test_a_trace_tells_how_many_answers_were_begun(ports: Ports) -> None:
    taken = await running_traced(ports, make_job(n=2))
    await some_of_it(ports, taken)
    await finish(ports, taken.lease, 5, FAILED)
    trace = await the_trace(ports)
    assert (trace.answers, trace.longest_answer_tokens) == (2, None)


@pytest.mark.parametrize("terminal", [FAILED, Cancelled(StopReason.CLIENT), Expired()])
async def test_all_tokens_of_a_request_that_came_to_no_good_end_are_wasted(
    ports: Ports, terminal: Terminal
) -> None:
    taken = await running_traced(ports)
    await some_of_it(ports, taken)
    await finish(ports, taken.lease, 5, terminal)
    trace = await the_trace(ports)
    assert (trace.input_tokens, trace.output_tokens, trace.wasted_tokens) == (3, 3, 3)


async def test_what_a_restart_made_void_is_wasted_and_not_counted_as_output(ports: Ports) -> None:
    taken = await running_traced(ports, make_job(on_worker_loss=OnWorkerLoss.RESTART))
    await some_of_it(ports, taken)
    again = codec.encode_event(Restarted("it cannot go on"))
    await append(ports, taken.lease, 5, again, token_line("c", 4))
    await finish(ports, taken.lease, 7, replace(COMPLETED, usage=Usage(3, 1)))
    trace = await the_trace(ports)
    assert (trace.output_tokens, trace.wasted_tokens) == (1, 3)


async def test_what_a_restart_made_void_counts_where_the_request_failed_at_last(
    ports: Ports,
) -> None:
    taken = await running_traced(ports, make_job(on_worker_loss=OnWorkerLoss.RESTART))
    await some_of_it(ports, taken)
    again = codec.encode_event(Restarted("it cannot go on"))
    await append(ports, taken.lease, 5, again, token_line("c", 4))
    await finish(ports, taken.lease, 7, FAILED)
    trace = await the_trace(ports)
    assert (trace.output_tokens, trace.wasted_tokens) == (1, 4)


# Phases


async def test_phases_of_one_take(ports: Ports) -> None:
    await enqueue_traced(ports, make_job())
    await asyncio.sleep(PAUSE_S)
    taken = await take_one(ports)
    await start(ports, taken.lease)
    await asyncio.sleep(2 * PAUSE_S)
    await append(ports, taken.lease, 3, token_line("a", 1))
    await asyncio.sleep(3 * PAUSE_S)
    await append(ports, taken.lease, 4, token_line("b", 2))
    await finish(ports, taken.lease, 5)
    trace = await the_trace(ports)
    assert sums_up(trace)
    assert trace.phases.queue_s > PAUSE_S
    assert trace.phases.prefill_s > 2 * PAUSE_S
    assert trace.phases.decode_s > 3 * PAUSE_S
    assert trace.phases.stalled_s == 0
    assert trace.ttft_s == pytest.approx(trace.phases.queue_s + trace.phases.prefill_s, abs=CLOSE)
    assert trace.tpot_s == pytest.approx(trace.phases.decode_s, abs=CLOSE)  # one after the first


async def test_an_answer_of_one_step_has_its_first_token_at_its_end(ports: Ports) -> None:
    taken = await running_traced(ports)
    await start(ports, taken.lease)
    await ports.source.finish(
        taken.lease, first_seq=3, lines=[token_line("a", 1)], terminal=COMPLETED, text="a"
    )
    trace = await the_trace(ports)
    assert trace.first_token_at_s == trace.finished_at_s
    assert trace.ttft_s == pytest.approx(trace.e2e_s, abs=CLOSE)
    assert trace.phases.decode_s == 0
    assert sums_up(trace)


async def test_vectors_have_no_first_token(ports: Ports) -> None:
    job = make_job(
        operation=Operation.EMBEDDINGS, embedding=Embedding(inputs=("un", "deux")), messages=None
    )
    taken = await running_traced(ports, job)
    await start(ports, taken.lease)
    done = Completed("stop", Usage(7, 0), Timings(queue_s=0, prefill_s=0, decode_s=0))
    await finish(ports, taken.lease, 3, done, text="", vectors=b"\0" * 8)
    trace = await the_trace(ports)
    assert (trace.operation, trace.ttft_s, trace.input_tokens) == (Operation.EMBEDDINGS, None, 7)
    assert trace.phases.decode_s == 0
    assert sums_up(trace)


async def test_after_a_token_a_wait_is_a_stall_and_each_take_is_counted(ports: Ports) -> None:
    started_s = time.time()
    taken = await running_traced(ports)
    await some_of_it(ports, taken)
    first_token_s = time.time() - started_s
    await ports.source.release([taken.lease])  # drained
    await asyncio.sleep(PAUSE_S)
    second = await take_one(ports)
    await append(ports, second.lease, 5)
    await asyncio.sleep(PAUSE_S)
    await ports.source.release([second.lease])
    await asyncio.sleep(PAUSE_S)
    third = await take_one(ports)
    await finish(ports, third.lease, 6)
    trace = await the_trace(ports)
    assert sums_up(trace)
    assert trace.takes == 3
    assert trace.phases.stalled_s > 2 * PAUSE_S
    assert trace.phases.decode_s > PAUSE_S
    assert trace.ttft_s is not None
    assert trace.ttft_s <= first_token_s + CLOSE, "the first token of all is the one that counts"


async def test_before_a_token_a_wait_is_queue_time_again(ports: Ports) -> None:
    taken = await running_traced(ports)
    await start(ports, taken.lease)
    await ports.source.release([taken.lease])
    await asyncio.sleep(PAUSE_S)
    second = await take_one(ports)
    await finish(ports, second.lease, 3)
    trace = await the_trace(ports)
    assert sums_up(trace)
    assert trace.phases.queue_s > PAUSE_S
    assert trace.phases.stalled_s == 0


async def test_a_dead_worker_let_go_when_it_was_last_heard_of(ports: Ports) -> None:
    """It held the job in name only until its lease was over, and that is no decoding."""
    lease_s = 1.0
    await enqueue_traced(ports, make_job())
    began_s = time.monotonic()
    (taken,) = await take(ports, lease_s=lease_s)
    await some_of_it(ports, taken)
    heard_of_s = time.monotonic() - began_s

    async def is_back() -> bool:
        return (await reap(ports)).requeued == 1

    await wait_until(is_back)
    again_s = time.monotonic()
    second = await take_one(ports)
    await finish(ports, second.lease, 5)
    again_for_s = time.monotonic() - again_s
    trace = await the_trace(ports)
    assert sums_up(trace)
    assert trace.takes == 2
    # Heard of last at the append.
    assert trace.phases.stalled_s > lease_s - heard_of_s
    assert trace.phases.decode_s < heard_of_s + again_for_s


async def test_a_wait_that_ends_the_request_counts(ports: Ports) -> None:
    taken = await running_traced(ports)
    await some_of_it(ports, taken)
    await ports.source.release([taken.lease])
    await asyncio.sleep(PAUSE_S)
    await ports.intake.cancel(taken.job.channel_id, StopReason.CLIENT)
    trace = await the_trace(ports)
    assert sums_up(trace)
    assert trace.phases.stalled_s > PAUSE_S


async def test_a_worker_that_was_to_stop_and_died_decoded_only_while_it_was_heard_of(
    ports: Ports,
) -> None:
    taken = await running_traced(ports)
    await some_of_it(ports, taken)
    await ports.intake.cancel(taken.job.channel_id, StopReason.CLIENT)
    await let_expire(ports, taken.lease)
    await asyncio.sleep(PAUSE_S)
    await reap(ports)
    trace = await the_trace(ports)
    assert sums_up(trace)
    assert trace.phases.stalled_s > PAUSE_S


# Content


async def test_content_goes_with_the_trace_where_it_was_asked_for(ports: Ports) -> None:
    job = make_job(messages=(Message("user", 'Où est "la" gare ?\n'),))
    taken = await running_traced(ports, job, WITH_CONTENT)
    await some_of_it(ports, taken)
    await finish(ports, taken.lease, 5, text="Là-bas.")
    assert (await the_trace(ports)).content == {
        "messages": [{"role": "user", "content": 'Où est "la" gare ?\n'}],
        "answer": "Là-bas.",
    }


async def test_content_of_a_prompt_and_of_inputs(ports: Ports) -> None:
    prompt = make_job(prompt=(1, 2, 3), operation=Operation.TEXT_COMPLETION)
    inputs = make_job(
        operation=Operation.SCORE, embedding=Embedding(inputs=("un",), queries=("deux",))
    )
    await enqueue_traced(ports, prompt, inputs, tracing=WITH_CONTENT)
    for taken in await take(ports, 2):
        await finish(ports, taken.lease, 2, text="")
    first, second = [one.trace.content for one in await collect(ports)]
    assert first == {"prompt": [1, 2, 3], "answer": ""}
    assert second is not None
    assert second["embedding"]["inputs"] == ["un"]
    assert second["embedding"]["queries"] == ["deux"]


async def test_an_answer_that_nobody_is_left_to_say_is_what_was_published(ports: Ports) -> None:
    taken = await running_traced(ports, tracing=WITH_CONTENT)
    await start(ports, taken.lease)
    void = codec.encode_event(Restarted("it cannot go on"))
    lines = (token_line('"', 1), void, token_line("é", 2), token_line("\n", 3))
    await append(ports, taken.lease, 3, *lines)
    await ports.intake.cancel(taken.job.channel_id, StopReason.CLIENT)
    await crash(ports, taken.lease)
    content = (await the_trace(ports)).content
    assert content is not None
    assert content["answer"] == "é\n"


async def test_content_is_as_the_request_was_accepted_whoever_ends_it(ports: Ports) -> None:
    """Orchestrators with other settings may be at work."""
    await enqueue_traced(ports, first := make_job(), tracing=WITH_CONTENT)
    await enqueue_traced(ports, second := make_job(), tracing=TRACING)
    for job in (first, second):
        await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    contents = [one.trace.content for one in await collect(ports)]
    assert [content is None for content in contents] == [False, True]


async def test_very_long_content_is_left_out(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    job = make_job(messages=(Message("user", "a" * (2 << 20)),))
    taken = await running_traced(ports, job, WITH_CONTENT)
    await finish(ports, taken.lease, 2)
    content = (await the_trace(ports)).content
    assert content is not None
    assert content.keys() == {"omitted_bytes"}
    assert content["omitted_bytes"] > 2 << 20


# The bound


async def test_at_the_bound_nothing_new_is_accepted_until_traces_are_written(ports: Ports) -> None:
    tight = Tracing(max_waiting=2)
    jobs = [make_job() for _ in range(3)]
    await enqueue_traced(ports, *jobs, tracing=tight)
    for job in jobs:
        await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    with pytest.raises(TracesFull) as refused:
        await enqueue_traced(ports, make_job(), tracing=tight)
    assert (refused.value.status, refused.value.code) == (503, "traces_full")
    assert refused.value.retry_after_s
    waiting = await collect(ports)
    assert len(waiting) == 3, "what was accepted loses no trace to the bound"
    await ports.traces.written(MODEL, [one.entry_id for one in waiting[:2]])
    await enqueue_traced(ports, make_job(), tracing=tight)


async def test_at_the_bound_a_repetition_still_finds_its_request(ports: Ports) -> None:
    tight = Tracing(max_waiting=1)
    await enqueue_traced(ports, job := make_job(), tracing=tight)
    await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    accepted = await ports.intake.enqueue(job, max_waiting=9, tracing=tight)
    assert accepted.duplicate


async def test_traces_may_take_a_quarter_of_the_bytes(ports: Ports) -> None:
    async def enqueue_one() -> None:
        await ports.intake.enqueue(
            job, max_waiting=99, max_stored_bytes=1_000_000, tracing=WITH_CONTENT
        )
        await ports.intake.cancel(job.channel_id, StopReason.CLIENT)

    with pytest.raises(TracesFull):
        for _ in range(99):
            # Their logs and results go, their traces wait.
            job = make_job(messages=(Message("user", "a" * 20_000),), log_ttl_s=1, result_ttl_s=1)
            await enqueue_one()
    for one in await collect(ports):
        await ports.traces.written(MODEL, [one.entry_id])
    await enqueue_one()


async def test_bytes_of_traces_count_with_what_is_held(ports: Ports) -> None:
    async def stored() -> int:
        return (await ports.inspector.queue(MODEL, top_keys=0)).stored_bytes

    job = make_job(messages=(Message("user", "a" * 50_000),))
    await enqueue_traced(ports, job, tracing=WITH_CONTENT)
    await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    before = await stored()
    (one,) = await collect(ports)
    await ports.traces.written(MODEL, [one.entry_id])
    assert before - await stored() > 50_000


async def test_where_bytes_run_out_for_other_reasons_the_error_says_so(ports: Ports) -> None:
    with pytest.raises(KeyStorageFull):
        for _ in range(99):
            job = make_job(messages=(Message("user", "a" * 20_000),))
            await ports.intake.enqueue(
                job, max_waiting=99, max_stored_bytes=1_000_000, tracing=TRACING
            )


# Writers


async def end_some(ports: Ports, number: int) -> list[str]:
    jobs = [make_job() for _ in range(number)]
    await enqueue_traced(ports, *jobs)
    for job in jobs:
        await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    return [job.channel_id for job in jobs]


async def collected(ports: Ports, writer: str, **options: float) -> list[str]:
    limit = int(options.pop("limit", 1000))
    return [one.trace.channel_id for one in await collect(ports, writer, limit=limit, **options)]


async def test_traces_come_in_the_order_of_their_ends(ports: Ports) -> None:
    assert await collected(ports, "w") == []
    ids = await end_some(ports, 25)
    assert await collected(ports, "w", limit=12) == ids[:12]
    assert await collected(ports, "other") == ids[12:]


async def test_a_writer_gets_the_same_again_until_it_says_written(ports: Ports) -> None:
    await end_some(ports, 3)
    first = await collect(ports)
    assert await collect(ports) == first
    await ports.traces.written(MODEL, [first[0].entry_id])
    await ports.traces.written(MODEL, [first[0].entry_id])
    assert await collect(ports) == first[1:]


async def test_what_a_writer_holds_is_another_s_only_when_it_has_held_it_for_long(
    ports: Ports,
) -> None:
    ids = await end_some(ports, 25)
    assert await collected(ports, "dead", limit=15) == ids[:15]
    assert await collected(ports, "alive") == ids[15:]
    await asyncio.sleep(0.01)
    assert sorted(await collected(ports, "alive", claim_after_s=0.0)) == sorted(ids)
    # And then it is no longer the first one's.
    assert await collected(ports, "dead") == []


async def test_a_batch_says_whether_there_is_more(ports: Ports) -> None:
    await end_some(ports, 11)

    async def more(limit: int) -> bool:
        batch = await ports.traces.collect(MODEL, writer="w", limit=limit, claim_after_s=60.0)
        return batch.more

    assert await more(10)
    assert not await more(12)


async def test_traces_set_aside_are_out_of_the_way(ports: Ports) -> None:
    await end_some(ports, 3)
    first, *others = await collect(ports)
    for _ in range(2):
        await ports.traces.set_aside(MODEL, [first.entry_id])
    assert await collect(ports) == others
    assert (await ports.inspector.queue(MODEL, top_keys=0)).waiting_traces == 2


async def test_age_of_the_oldest_that_waits(ports: Ports) -> None:
    await end_some(ports, 2)
    await asyncio.sleep(PAUSE_S)
    view = await ports.inspector.queue(MODEL, top_keys=0)
    assert view.waiting_traces == 2
    assert view.oldest_trace_s is not None
    assert PAUSE_S / 2 < view.oldest_trace_s < LIVENESS_S


async def test_what_is_set_aside_is_kept_bounded_and_not_for_ever(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    await end_some(ports, 130)
    await ports.traces.set_aside(MODEL, [one.entry_id for one in await collect(ports)])
    assert await redis_store.redis.xlen(keys.traces_aside(MODEL)) == 100
    assert 0 < await redis_store.redis.ttl(keys.traces_aside(MODEL)) <= 7 * 24 * 3600


async def test_what_cannot_be_read_is_set_aside_and_the_others_come(
    redis_store: RedisStore,
) -> None:
    ports = redis_ports(redis_store)
    ids = await end_some(ports, 1)
    await redis_store.redis.xadd(keys.traces(MODEL), {"from": "tomorrow"})
    ids += await end_some(ports, 1)
    assert await collected(ports, "w") == ids
    assert await redis_store.redis.xlen(keys.traces_aside(MODEL)) == 1
    assert await redis_store.redis.xlen(keys.traces(MODEL)) == 2


async def test_what_somebody_deleted_holds_up_nobody(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    ids = await end_some(ports, 2)
    gone, _ = await collect(ports)
    await redis_store.redis.xdel(keys.traces(MODEL), gone.entry_id)
    assert await collected(ports, "writer-1") == ids[1:]


async def test_writers_that_are_gone_are_forgotten_once_they_hold_nothing(
    redis_store: RedisStore,
) -> None:
    ports = redis_ports(redis_store)
    ids = await end_some(ports, 2)
    await collected(ports, "gone", limit=1)

    async def forgotten() -> bool:
        await collected(ports, "w", claim_after_s=0.001)
        consumers = await redis_store.redis.xinfo_consumers(keys.traces(MODEL), "writers")
        return {one["name"] for one in consumers} == {b"w"}

    await wait_until(forgotten)
    assert sorted(await collected(ports, "w")) == sorted(ids)


async def test_writer_that_was_silent_for_long_and_holds_traces_is_kept_until_they_are_claimed(
    redis_store: RedisStore,
) -> None:
    ports = redis_ports(redis_store)
    ids = await end_some(ports, 3)
    await collected(ports, "gone")

    async def silent_for_long() -> bool:
        consumers = await redis_store.redis.xinfo_consumers(keys.traces(MODEL), "writers")
        return all(one["idle"] > 20 for one in consumers if one["name"] == b"gone")

    await wait_until(silent_for_long)
    await collected(ports, "w", limit=1, claim_after_s=0.0001)
    assert sorted(await collected(ports, "w", claim_after_s=0.0001)) == sorted(ids)
