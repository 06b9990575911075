"""One job through the engine: what is refused, what is counted, what is said."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from relais_common.jobs.chat import Message
from relais_common.jobs.errors import EngineFailed, EngineRefused, NotResumable
from relais_common.jobs.events import AnswerEnd, Completed, Restarted, Started, Token, TokenLogprob
from relais_common.jobs.job import Job, OnWorkerLoss, Priority, Sampling, TakenJob, Verdict
from relais_common.queue import codec
from relais_common.worker.held import MOST_UNSENT, HeldJob
from relais_common.worker.publisher import Publisher
from relais_llm_worker.engine import EngineLoad
from relais_llm_worker.engines.engine_deterministic import (
    DeterministicEngine,
    answer_pieces,
    answer_token_ids,
)
from relais_llm_worker.engines.local import LINE_TOKENS_AT_ONCE, models_of
from relais_llm_worker.generate import PROGRESS, GenerateHandler
from relais_testing.builders import hold, make_job
from relais_testing.faults import Faults
from relais_testing.owned import end_task
from relais_testing.ports import Ports
from relais_testing.stack import answer_to, answer_to_prompt
from relais_testing.steps import append, events, running, take_one
from relais_testing.waiting import wait_until

MAX_MODEL_LEN = 100


class Bench:
    """A handler, and the publisher that sends what it makes."""

    def __init__(self, ports: Ports, faults: Faults, **limits: Any) -> None:
        self.ports = ports
        self.engine = DeterministicEngine(
            "m", max_model_len=MAX_MODEL_LEN, max_num_seqs=4, tokens_per_s=0
        )
        source = faults.around(ports.source)
        self.publisher = Publisher(source)
        settings: dict[str, Any] = {"max_output_tokens": 60, "kv_cache_threshold": 0.9} | limits
        model = models_of([self.engine], **settings)[0]
        self.handler = GenerateHandler(model, source, ports.log, self.publisher)

    async def taken(self, job: Job) -> TakenJob:
        return await running(self.ports, job)

    async def handle(self, job: Job) -> tuple[Completed, HeldJob]:
        return await self.go_on(await self.taken(job))

    async def go_on(self, taken: TakenJob) -> tuple[Completed, HeldJob]:
        """Handle it, and end it as the consumer does."""
        held = hold(taken)
        publishing = asyncio.create_task(self.publisher.run())
        try:
            terminal = await self.handler.handle(held)
            await wait_until(lambda: not held.has_unsent)
        finally:
            await end_task(publishing)
        assert isinstance(terminal, Completed)
        first_seq, lines = held.ending()
        await self.ports.source.finish(
            held.lease,
            first_seq=first_seq,
            lines=lines,
            terminal=terminal,
            text="".join(held.text),
        )
        return terminal, held

    async def cut(self, job: Job, count: int, revision: str = "deterministic-1") -> TakenJob:
        """The job in a second worker's hands, after a first one published `count` tokens and died."""
        taken = await self.taken(job)
        prompt = list(job.prompt.encode()) if isinstance(job.prompt, str) else []
        await self.ports.source.start(taken.lease, prompts=[prompt], model_revision=revision)
        engine = DeterministicEngine("m", max_model_len=100, max_num_seqs=4, tokens_per_s=0)
        # What this engine does not follow is of no matter here.
        sampling = replace(job.sampling, bad_words=(), structured_outputs=None)
        async with engine.generate("first", prompt, sampling, 60) as generation:
            lines = [
                codec.encode_event(Token(chunk.text, chunk.token_ids, chunk.logprobs))
                async for chunk in generation.chunks()
            ]
        await append(self.ports, taken.lease, 3, *lines[:count])
        await self.ports.source.release([taken.lease])
        return await take_one(self.ports, worker_id="second", idle=True)


@pytest.fixture
def bench(ports: Ports, faults: Faults) -> Bench:
    return Bench(ports, faults)


def prompt_job(prompt: str | tuple[int, ...], **sampling: Any) -> Job:
    return make_job(prompt=prompt, sampling=Sampling(**sampling))


async def refused(bench: Bench, job: Job) -> EngineRefused:
    with pytest.raises(EngineRefused) as caught:
        await bench.handle(job)
    assert bench.engine.running == frozenset()
    return caught.value


async def test_tokens_are_published_in_order_after_started(bench: Bench, ports: Ports) -> None:
    job = make_job(messages=(Message("user", "a"),))
    _, held = await bench.handle(job)
    _, started, *tokens, _ = await events(ports, job.channel_id)
    assert started == Started(len(b"<user>a<assistant>"))
    texts = [token.text for token in tokens if isinstance(token, Token)]
    assert "".join(texts) == "".join(held.text) == answer_to("a")
    assert len(texts) == 32


async def test_usage_and_timings_are_the_runs_own(bench: Bench) -> None:
    terminal, held = await bench.handle(prompt_job("abcde", max_tokens=7))
    assert (terminal.finish_reason, terminal.stop_reason) == ("length", None)
    assert (terminal.usage.input_tokens, terminal.usage.output_tokens) == (5, 7)
    timings = terminal.timings
    assert timings.queue_s == round(held.taken.queued_s, 6)
    assert timings.prefill_s > 0
    assert timings.decode_s > 0


async def test_token_ids_are_a_prompt_too(bench: Bench) -> None:
    terminal, held = await bench.handle(prompt_job(tuple(b"abc"), max_tokens=4))
    assert "".join(held.text) == answer_to_prompt("abc", 4)
    assert terminal.usage.input_tokens == 3


async def test_stop_string_is_told(bench: Bench) -> None:
    stop = answer_to_prompt("abc", 3).split()[-1]
    terminal, held = await bench.handle(prompt_job("abc", stop=(stop,)))
    assert (terminal.finish_reason, terminal.stop_reason) == ("stop", stop)
    assert stop not in "".join(held.text)


@pytest.mark.parametrize(
    ("max_output_tokens", "asked", "prompt_tokens", "given"),
    [
        (60, None, 10, 32),
        (20, None, 10, 20),
        (20, 50, 10, 20),
        (200, 90, 10, 90),
        (200, 5, 10, 5),
        (200, None, 90, 10),
    ],
)
async def test_length_is_cut_to_what_model_and_deployment_allow(
    ports: Ports,
    faults: Faults,
    max_output_tokens: int,
    asked: int | None,
    prompt_tokens: int,
    given: int,
) -> None:
    bench = Bench(ports, faults, max_output_tokens=max_output_tokens)
    terminal, _ = await bench.handle(prompt_job("x" * prompt_tokens, max_tokens=asked))
    assert terminal.usage.output_tokens == given


@pytest.mark.parametrize("length", [MAX_MODEL_LEN, MAX_MODEL_LEN + 1, 5000])
async def test_prompt_that_leaves_no_room_is_refused_by_its_field(
    bench: Bench, length: int
) -> None:
    error = await refused(bench, prompt_job("x" * length))
    assert (error.param, error.code, error.status) == ("prompt", "context_length_exceeded", 400)
    error = await refused(bench, make_job(messages=(Message("user", "x" * length),)))
    assert (error.param, error.code) == ("messages", "context_length_exceeded")


async def test_more_tokens_than_fit_beside_the_prompt_are_refused(bench: Bench) -> None:
    error = await refused(bench, prompt_job("x" * 50, max_tokens=51))
    assert (error.param, error.code) == ("max_tokens", "context_length_exceeded")
    assert "50 prompt tokens" in error.message
    terminal, _ = await bench.handle(prompt_job("x" * 50, max_tokens=50))
    assert terminal.usage.output_tokens == 50
    terminal, _ = await bench.handle(prompt_job("x" * 50, max_tokens=51, adapts_bounds=True))
    assert (terminal.usage.output_tokens, terminal.finish_reason) == (50, "length")


@pytest.mark.parametrize("prompt", ["", ()])
async def test_empty_prompt_is_refused(bench: Bench, prompt: str | tuple[int, ...]) -> None:
    error = await refused(bench, prompt_job(prompt))
    assert (error.param, error.code) == ("prompt", "invalid_value")


async def test_what_the_engine_refuses_leaves_no_started_event(bench: Bench, ports: Ports) -> None:
    job = prompt_job((300,))
    error = await refused(bench, job)
    assert error.param == "prompt"
    assert len(await events(ports, job.channel_id)) == 1


@pytest.mark.parametrize("count", [1, 3, 4, 5, 31])
async def test_cut_job_goes_on_after_any_token_also_within_a_character(
    bench: Bench, ports: Ports, count: int
) -> None:
    taken = await bench.cut(prompt_job("abc"), count)
    terminal, held = await bench.go_on(taken)
    assert "".join(held.text) == answer_to_prompt("abc", 32)
    log = await events(ports, taken.job.channel_id)
    tokens = [event for event in log if isinstance(event, Token)]
    assert "".join(token.text for token in tokens) == answer_to_prompt("abc", 32)
    assert (len(tokens), bench.engine.steps) == (32, 32 - count)
    assert (terminal.usage.input_tokens, terminal.usage.output_tokens) == (3, 32)
    assert terminal.finish_reason == "stop"


@pytest.mark.parametrize("count", range(1, 5))
async def test_stop_string_across_the_cut_still_ends_the_answer(bench: Bench, count: int) -> None:
    whole = answer_to_prompt("abc", 32)
    stop = " ".join(whole.split()[2:5])
    taken = await bench.cut(prompt_job("abc", stop=(stop,)), count)
    terminal, held = await bench.go_on(taken)
    assert "".join(held.text) == whole.partition(stop)[0]
    assert (terminal.finish_reason, terminal.stop_reason) == ("stop", stop)


@pytest.mark.parametrize(("asked", "count"), [(20, 19), (20, 5), (60, 59)])
async def test_max_tokens_counts_what_came_before_the_cut(
    bench: Bench, asked: int, count: int
) -> None:
    taken = await bench.cut(prompt_job("abc", max_tokens=asked), count)
    terminal, held = await bench.go_on(taken)
    assert "".join(held.text) == answer_to_prompt("abc", asked)
    assert (terminal.finish_reason, terminal.usage.output_tokens) == ("length", asked)


async def test_cut_job_that_has_more_than_this_deployment_allows_ends_at_once(
    ports: Ports, faults: Faults
) -> None:
    bench = Bench(ports, faults, max_output_tokens=10)
    taken = await bench.cut(prompt_job("abc", max_tokens=50), 12)
    terminal, held = await bench.go_on(taken)
    assert "".join(held.text) == answer_to_prompt("abc", 12)
    assert (terminal.finish_reason, bench.engine.steps) == ("length", 0)


@pytest.mark.parametrize(
    ("sampling", "word"),
    [
        ({"seed": 1}, "seeded"),
        ({"seed": 1, "temperature": 0.5}, "seeded"),
        ({"presence_penalty": 0.5}, "penalties"),
        ({"frequency_penalty": -0.5}, "penalties"),
        ({"bad_words": ("mot",)}, "bad_words"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ],
)
async def test_what_a_fresh_request_cannot_carry_over_is_named(
    bench: Bench, sampling: dict[str, Any], word: str
) -> None:
    taken = await bench.cut(prompt_job("abc", **sampling), 5)
    with pytest.raises(NotResumable, match=word):
        await bench.go_on(taken)
    assert bench.engine.steps == 0


async def test_engine_that_makes_tokens_again_goes_on_whatever_was_asked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    able = replace(bench.engine.info, forces_tokens=True)
    monkeypatch.setattr(DeterministicEngine, "info", property(lambda _: able))
    taken = await bench.cut(prompt_job("abc", seed=1, presence_penalty=0.5), 5)
    _, held = await bench.go_on(taken)
    assert "".join(held.text) == answer_to_prompt("abc", 32)


@pytest.mark.parametrize(
    "sampling",
    [{"seed": 1, "temperature": 0.0}, {"temperature": 0.7}, {"repetition_penalty": 1.2}],
)
async def test_what_depends_on_the_tokens_alone_is_carried_over(
    bench: Bench, sampling: dict[str, Any]
) -> None:
    _, held = await bench.go_on(await bench.cut(prompt_job("abc", **sampling), 5))
    assert "".join(held.text) == answer_to_prompt("abc", 32)


async def test_another_revision_of_the_model_does_not_go_on(bench: Bench) -> None:
    taken = await bench.cut(prompt_job("abc"), 5, revision="deterministic-0")
    with pytest.raises(NotResumable, match="model has changed"):
        await bench.go_on(taken)


async def test_text_whose_tokens_are_not_known_is_not_gone_on_from(
    bench: Bench, ports: Ports
) -> None:
    taken = await bench.cut(prompt_job("abc"), 5)
    await append(ports, taken.lease, 8, codec.encode_event(Token("more", ())))
    await ports.source.release([taken.lease])
    with pytest.raises(NotResumable, match="tokens are not known"):
        await bench.go_on(await take_one(ports, worker_id="third", idle=True))


async def test_job_that_may_be_restarted_says_so_and_begins_again(
    bench: Bench, ports: Ports
) -> None:
    job = replace(prompt_job("abc"), on_worker_loss=OnWorkerLoss.RESTART)
    terminal, held = await bench.go_on(await bench.cut(job, 5, revision="deterministic-0"))
    assert "".join(held.text) == answer_to_prompt("abc", 32)
    assert terminal.usage.output_tokens == 32
    names = [type(event).__name__ for event in await events(ports, job.channel_id)]
    assert names == [
        "Queued", "Started", *["Token"] * 5, "Restarted", *["Token"] * 32, "Completed",
    ]  # fmt: skip


async def test_cut_again_after_a_restart_only_the_new_tokens_count(
    bench: Bench, ports: Ports
) -> None:
    job = replace(prompt_job("abc"), on_worker_loss=OnWorkerLoss.RESTART)
    taken = await bench.cut(job, 5, revision="deterministic-0")
    await append(ports, taken.lease, 8, codec.encode_event(Restarted("why")), emits=False)
    await ports.source.release([taken.lease])
    _, held = await bench.go_on(await take_one(ports, worker_id="third", idle=True))
    assert "".join(held.text) == answer_to_prompt("abc", 32)
    log = await events(ports, job.channel_id)
    assert sum(isinstance(event, Restarted) for event in log) == 1


@pytest.mark.parametrize("count", [1, 4, 5, 20])
async def test_what_is_told_of_tokens_has_no_gap_where_a_worker_died(
    bench: Bench, ports: Ports, count: int
) -> None:
    wanted = {"logprobs": 2, "max_tokens": 32, "stop": ("never",)}
    undisturbed, cut = prompt_job("abc", **wanted), prompt_job("abc", **wanted)
    await bench.handle(undisturbed)
    await bench.go_on(await bench.cut(cut, count))

    async def told(job: Job) -> list[TokenLogprob]:
        log = [event for event in await events(ports, job.channel_id) if isinstance(event, Token)]
        assert all(len(event.logprobs or ()) == len(event.token_ids) for event in log)
        return [one for event in log for one in event.logprobs or ()]

    assert await told(cut) == await told(undisturbed)
    assert len(await told(cut)) == 32


async def test_last_token_and_end_are_one_step(bench: Bench, ports: Ports) -> None:
    """Between them a successor would ask the engine for more than the answer."""
    job = prompt_job("abc", max_tokens=5)
    lengths: list[int] = []
    appended = ports.source.append

    async def spy(appends: Any) -> Any:
        lengths.extend(len(item.lines) for item in appends)
        return await appended(appends)

    bench.publisher._source = cast(Any, SimpleNamespace(append=spy))
    await bench.handle(job)
    assert sum(lengths) == 4
    assert len(await events(ports, job.channel_id)) == 2 + 5 + 1


async def test_job_that_was_only_started_by_another_worker_is_done_from_the_beginning(
    bench: Bench, ports: Ports
) -> None:
    first = await bench.taken(make_job(messages=(Message("user", "a"),)))
    await ports.source.start(first.lease, prompts=[[1]], model_revision="r")
    await ports.source.release([first.lease])
    await bench.go_on(await take_one(ports, worker_id="w", idle=True))
    log = await events(ports, first.job.channel_id)
    assert [type(event).__name__ for event in log[:3]] == ["Queued", "Started", "Token"]
    assert "".join(event.text for event in log if isinstance(event, Token)) == answer_to("a")


@pytest.mark.parametrize("fault", ["refuse", "lose_answer"])
async def test_store_that_is_away_at_the_start_delays_the_job_and_does_not_fail_it(
    bench: Bench, ports: Ports, faults: Faults, fault: str
) -> None:
    getattr(faults, fault)("start", 2)
    job = make_job(messages=(Message("user", "a"),))
    _, held = await bench.handle(job)
    assert "".join(held.text) == answer_to("a")
    log = await events(ports, job.channel_id)
    assert sum(isinstance(event, Started) for event in log) == 1


@pytest.mark.parametrize(
    ("held", "waiting", "usage", "room"),
    [
        # One of four is given later: see `enough_of`.
        (0, 0, 0.0, 3),
        (1, 0, 0.1, 2),
        (3, 0, 0.1, 1),
        (4, 0, 0.1, 0),
        (2, 1, 0.1, 0),
        (2, 0, 0.9, 0),
        (2, 0, 0.89, 1),
        (0, 3, 0.99, 3),  # an idle engine's last word is out of date
    ],
)
def test_room_is_what_the_engine_can_take_on_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, held: int, waiting: int, usage: float, room: int
) -> None:
    monkeypatch.setattr(bench.engine, "load", lambda: EngineLoad(waiting, usage))
    assert bench.handler.room(held) == room


async def test_engine_that_is_faster_than_the_store_waits_for_it(
    ports: Ports, faults: Faults
) -> None:
    bench = Bench(ports, faults, max_output_tokens=20_000)
    bench.engine = DeterministicEngine("m", max_model_len=30_000, max_num_seqs=4, tokens_per_s=0)
    model = models_of([bench.engine], max_output_tokens=20_000, kv_cache_threshold=0.9)[0]
    source = faults.around(ports.source)
    bench.handler = GenerateHandler(model, source, ports.log, bench.publisher)
    job = prompt_job("a", max_tokens=2 * MOST_UNSENT, ignore_eos=True)
    held = hold(await bench.taken(job))
    handling = asyncio.create_task(bench.handler.handle(held))
    await wait_until(lambda: held.next_seq > MOST_UNSENT)
    made = held.next_seq
    # Nothing is sent: so much lies here, and no more comes.
    for _ in range(1000):
        await asyncio.sleep(0)
    assert held.next_seq == made
    publishing = asyncio.create_task(bench.publisher.run())
    assert isinstance(await handling, Completed)
    await end_task(publishing)
    assert sum(isinstance(one, Token) for one in await events(ports, job.channel_id)) > MOST_UNSENT


def several(tokens: int, *, begun: dict[int, int]) -> list[bytes]:
    """What a log has of answers to `abc` that have begun: so many tokens of each, in turn; whole ones have ended."""
    lines = []
    for position in range(tokens):
        for index, count in begun.items():
            if position >= count:
                continue
            pieces = answer_pieces(list(b"abc"), tokens, index)
            ids = list(answer_token_ids(list(b"abc"), tokens, index))
            token = Token(pieces[position], (ids[position],), index=index)
            if position == tokens - 1:
                token.end = AnswerEnd("length", tokens)
            lines.append(codec.encode_event(token))
    return lines


async def test_several_answers_go_on_each_where_it_stopped(bench: Bench, ports: Ports) -> None:
    job = replace(prompt_job("abc", max_tokens=12), n=4)
    taken = await bench.taken(job)
    await ports.source.start(taken.lease, prompts=[b"abc"], model_revision="deterministic-1")
    # One has ended, one has not begun, and two were cut.
    await append(ports, taken.lease, 3, *several(12, begun={0: 12, 1: 5, 3: 8}))
    await ports.source.release([taken.lease])
    terminal, held = await bench.go_on(await take_one(ports, worker_id="second", idle=True))
    texts = [one.message.content for one in terminal.answers if one.message is not None]
    assert texts == [answer_to_prompt("abc", 12, index) for index in range(4)]
    logged = [one for one in await events(ports, job.channel_id) if isinstance(one, Token)]
    for index in range(4):
        own = [token for token in logged if token.index == index]
        assert [token.token_ids[0] for token in own] == list(
            answer_token_ids(list(b"abc"), 12, index)
        )
        assert [token.end is not None for token in own] == [False] * 11 + [True]
    assert (terminal.usage.input_tokens, terminal.usage.output_tokens) == (3, 48)
    assert bench.engine.steps == 12 + 12 + 7 + 4 - 12
    assert "".join(held.text) == answer_to_prompt("abc", 12)


async def test_if_one_answer_fails_the_others_are_stopped(bench: Bench) -> None:
    job = make_job(prompts=("abc", "[engine-fault]"), sampling=Sampling(max_tokens=50))
    with pytest.raises(EngineFailed):
        await bench.handle(job)
    assert bench.engine.running == frozenset()


async def test_only_a_line_that_nobody_reads_and_no_string_stops_comes_many_tokens_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    generate = bench.engine.generate

    def noted(*args: Any, tokens_at_once: int) -> Any:
        asked.append(tokens_at_once)
        return generate(*args, tokens_at_once=tokens_at_once)

    monkeypatch.setattr(bench.engine, "generate", noted)
    for priority, stop in ((Priority.BATCH, ()), (Priority.BATCH, ("?",)), (Priority.LOW, ())):
        await bench.handle(make_job(priority=priority, sampling=Sampling(max_tokens=3, stop=stop)))
    assert asked == [LINE_TOKENS_AT_ONCE, 1, 1]


async def test_progress_of_a_preempted_job_is_counted_in_tokens_however_they_came(
    bench: Bench,
) -> None:
    held = hold(replace(await bench.taken(make_job()), preempted=1))
    for _ in range(2):
        assert not bench.handler.can_preempt(held)
        held.add(Token("much", tuple(range(PROGRESS // 2))))
        held.heed(Verdict(held=True, tail=held.next_seq - 1))
    assert bench.handler.can_preempt(held)


async def test_whether_a_job_can_continue_is_found_out_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sampling] = []

    def noted(sampling: Sampling, chat: Any = None) -> Sampling:
        asked.append(sampling)
        return sampling

    monkeypatch.setattr(bench.engine, "settled", noted)
    held_jobs = [hold(await bench.taken(make_job(sampling=Sampling(seed=1)))) for _ in range(3)]
    for _ in range(2):
        assert bench.handler.enough_of(held_jobs) == [held_jobs[0].job.key_id]
    assert len(asked) == 3
