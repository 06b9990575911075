"""One job through the engine: what is refused, what is counted, what is said."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from relais_common.errors import EngineRefused, NotResumable
from relais_common.events import Completed, Started, Token
from relais_common.jobs import Job, Message, Sampling, TakenJob
from relais_common.worker.held import HeldJob
from relais_common.worker.publisher import Publisher
from relais_llm_worker.engine import EngineLoad
from relais_llm_worker.engine_deterministic import DeterministicEngine
from relais_llm_worker.generate import GenerateHandler
from support.builders import make_job
from support.faults import Faults
from support.owned import end_task
from support.ports import Ports
from support.stack import answer_to, answer_to_prompt
from support.steps import events, running

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
        self.handler = GenerateHandler(self.engine, source, self.publisher, **settings)

    async def taken(self, job: Job) -> TakenJob:
        return await running(self.ports, job)

    async def handle(self, job: Job) -> tuple[Completed, HeldJob]:
        held = HeldJob(await self.taken(job))
        publishing = asyncio.create_task(self.publisher.run())
        try:
            terminal = await self.handler.handle(held)
            assert await held.wait_sent()
        finally:
            await end_task(publishing)
        assert isinstance(terminal, Completed)
        return terminal, held


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
    _, started, *tokens = await events(ports, job.channel_id)
    assert started == Started(len(b"<user>a<assistant>"))
    texts = [token.text for token in tokens if isinstance(token, Token)]
    assert "".join(texts) == "".join(held.text) == answer_to("a")
    assert len(texts) == len(tokens) == 32


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


@pytest.mark.parametrize("prompt", ["", ()])
async def test_empty_prompt_is_refused(bench: Bench, prompt: str | tuple[int, ...]) -> None:
    error = await refused(bench, prompt_job(prompt))
    assert (error.param, error.code) == ("prompt", "invalid_value")


async def test_what_the_engine_refuses_leaves_no_started_event(bench: Bench, ports: Ports) -> None:
    job = prompt_job((300,))
    error = await refused(bench, job)
    assert error.param == "prompt"
    assert len(await events(ports, job.channel_id)) == 1


async def test_job_whose_tokens_were_already_sent_is_not_begun_again(bench: Bench) -> None:
    taken = await bench.taken(make_job())
    with pytest.raises(NotResumable):
        await bench.handler.handle(HeldJob(replace(taken, emitted=True)))
    assert bench.engine.running == frozenset()


async def test_job_that_was_only_started_by_another_worker_is_done_from_the_beginning(
    bench: Bench, ports: Ports
) -> None:
    first = await bench.taken(make_job(messages=(Message("user", "a"),)))
    await ports.source.start(first.lease, prompt_token_ids=[1], model_revision="r")
    await ports.source.release([first.lease])
    (again,) = await ports.source.take(
        first.job.model, 1, worker_id="w", call_id="c", lease_s=60, idle=True
    )
    held = HeldJob(again)
    publishing = asyncio.create_task(bench.publisher.run())
    await bench.handler.handle(held)
    assert await held.wait_sent()
    await end_task(publishing)
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
        (0, 0, 0.0, 4),
        (1, 0, 0.1, 3),
        (4, 0, 0.1, 0),
        (2, 1, 0.1, 0),
        (2, 0, 0.9, 0),
        (2, 0, 0.89, 2),
        (0, 3, 0.99, 4),  # an idle engine's last word is out of date
    ],
)
def test_room_is_what_the_engine_can_take_on_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, held: int, waiting: int, usage: float, room: int
) -> None:
    monkeypatch.setattr(bench.engine, "load", lambda: EngineLoad(waiting, usage))
    assert bench.handler.room(held) == room
