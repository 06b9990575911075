"""Whose specification is tried next, and what is known of those that were: over a trial that the test ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from relais_common.jobs.errors import EngineFailed, EngineRefused, TooManyTrials
from relais_llm_worker.structured_outputs.specification import Specification
from relais_llm_worker.structured_outputs.trials import MAX_WAITING_PER_KEY, SLOTS, Trials
from relais_testing.owned import end_task
from relais_testing.waiting import wait_until


class Bench:
    """Trials that end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.stopped: list[str] = []
        self.ends: dict[str, asyncio.Future[str | None]] = {}
        self.trials = Trials(self._try_out)
        self._tasks: list[asyncio.Task[None]] = []

    async def _try_out(self, specification: Specification) -> str | None:
        text = specification.text
        self.begun.append(text)
        self.ends[text] = asyncio.get_running_loop().create_future()
        try:
            return await self.ends[text]
        except asyncio.CancelledError:
            self.stopped.append(text)
            del self.ends[text]
            raise

    def ask(self, text: str, key_id: str) -> asyncio.Task[None]:
        specification = Specification("grammar", text, (), "structured_outputs.grammar")
        task = asyncio.create_task(self.trials.check(specification, key_id=key_id))
        self._tasks.append(task)
        return task

    async def end(self, text: str, why_not: str | None = None) -> None:
        await wait_until(lambda: text in self.ends)
        self.ends.pop(text).set_result(why_not)

    async def close(self) -> None:
        for task in self._tasks:
            await end_task(task)
        await self.trials.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.close()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_same_specification_is_tried_once_for_all(bench: Bench) -> None:
    asked = [bench.ask("a", f"key {number}") for number in range(3)]
    await bench.end("a")
    await asyncio.gather(*asked)
    await bench.ask("a", "later")
    assert bench.begun == ["a"]


async def test_a_refusal_is_remembered_and_names_the_field(bench: Bench) -> None:
    first = bench.ask("a", "key")
    await bench.end("a", "it is too complex")
    for task in (first, bench.ask("a", "other")):
        with pytest.raises(EngineRefused, match="too complex") as refused:
            await task
        assert refused.value.param == "structured_outputs.grammar"
    assert bench.begun == ["a"]


async def test_a_trial_that_failed_is_tried_again(bench: Bench) -> None:
    first = bench.ask("a", "key")
    await wait_until(lambda: "a" in bench.ends)
    bench.ends.pop("a").set_exception(EngineFailed("try again"))
    with pytest.raises(EngineFailed):
        await first
    again = bench.ask("a", "key")
    await bench.end("a")
    await again
    assert bench.begun == ["a", "a"]


async def test_one_key_runs_one_trial_and_another_s_begins_at_once(bench: Bench) -> None:
    for number in range(10):
        bench.ask(f"attack {number}", "attacker")
    await turns()
    assert bench.begun == ["attack 0"]
    victim = bench.ask("small", "victim")
    await bench.end("small")
    await victim
    assert bench.begun == ["attack 0", "small"]


async def test_keys_take_turns(bench: Bench) -> None:
    for number in range(2):
        for key_id in "abc":
            bench.ask(f"{key_id}{number}", key_id)
    await turns()
    assert len(bench.begun) == SLOTS == 2
    for text in ("a0", "b0", "c0", "a1", "b1", "c1"):
        await bench.end(text)
        await turns()
    assert bench.begun == ["a0", "b0", "c0", "a1", "b1", "c1"]


async def test_what_one_key_has_waiting_is_bounded(bench: Bench) -> None:
    for number in range(MAX_WAITING_PER_KEY + 1):
        bench.ask(f"{number}", "attacker")
    await turns()
    with pytest.raises(TooManyTrials) as refused:
        await bench.ask("one more", "attacker")
    assert refused.value.status == 429
    victim = bench.ask("small", "victim")
    await bench.end("small")
    await victim


async def test_a_trial_ends_with_the_last_that_waits_for_it(bench: Bench) -> None:
    first, second = bench.ask("a", "one"), bench.ask("a", "two")
    await turns()
    await end_task(first)
    await turns()
    assert bench.stopped == []
    await end_task(second)
    await turns()
    assert bench.stopped == ["a"]
    again = bench.ask("a", "one")
    await bench.end("a")
    await again


async def test_one_that_gives_up_before_its_turn_is_never_tried(bench: Bench) -> None:
    bench.ask("running", "key")
    await turns()
    await end_task(bench.ask("given up", "key"))
    last = bench.ask("last", "key")
    await bench.end("running")
    await bench.end("last")
    await last
    assert bench.begun == ["running", "last"]
