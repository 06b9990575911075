"""Specifications tried out in real children, with the real libraries and the demo model's tokenizer."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from relais_common.jobs.errors import EngineRefused
from relais_llm_worker.structured_outputs.specification import Budget, Library, Specification
from relais_llm_worker.structured_outputs.trial_client import TrialClient, open_trial_client
from relais_llm_worker.structured_outputs.trials import Trials
from relais_llm_worker.structured_outputs.walk import IMPOSSIBLE, NOT_WITH_ALLOWED, TOO_COSTLY
from relais_testing.process_stack import DEMO_MODEL
from relais_testing.waiting import wait_until

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]
VOCABULARY = 2052
# CPU seconds, so a busy machine changes nothing. What passes takes a small part, what does not many times more.
BUDGET = Budget(cpu_s=4.0, step_cpu_s=0.4)
CHAIN = "".join(f"a{i} ::= a{i + 1} a{i + 1} | a{i + 1}\n" for i in range(200))
DEEP = f'root ::= a0\n{CHAIN}a200 ::= "x"'


def guidance() -> Library:
    text = (DEMO_MODEL / "tokenizer.json").read_text()
    return Library("guidance", text, VOCABULARY, 2, any_whitespace=False)


def xgrammar() -> Library:
    import xgrammar
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=VOCABULARY)
    return Library("xgrammar", info.serialize_json(), VOCABULARY, None, any_whitespace=False)


@pytest.fixture(params=["guidance", "xgrammar"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[TrialClient]:
    library = await asyncio.to_thread({"guidance": guidance, "xgrammar": xgrammar}[request.param])
    async with open_trial_client(library, BUDGET) as client:
        yield client


def specification(kind: str, text: Any, allowed: tuple[int, ...] = ()) -> Specification:
    text = text if isinstance(text, str) else json.dumps(text)
    return Specification(kind, text, allowed, f"structured_outputs.{kind}")


def trial_server() -> psutil.Process:
    """The one that this process has, beside others that a test run starts."""
    (server,) = (
        child
        for child in psutil.Process(os.getpid()).children()
        if any("trial_server" in part for part in child.cmdline())
    )
    return server


def children() -> list[psutil.Process]:
    """Trials under way."""
    return trial_server().children()


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


async def test_what_is_cheap_passes_and_what_is_not_is_refused(client: TrialClient) -> None:
    assert await client.try_out(specification("json", PERSON)) is None
    assert await client.try_out(specification("regex", r"\d{3}-[a-z]+")) is None
    assert await client.try_out(specification("grammar", 'root ::= "yes" | "no"')) is None
    assert await client.try_out(specification("grammar", DEEP)) == TOO_COSTLY
    endless = specification("lark", "start: x\nx: start")
    assert await client.try_out(endless) == IMPOSSIBLE
    itself = {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    assert await client.try_out(specification("json", itself)) == IMPOSSIBLE
    wrong = await client.try_out(specification("regex", "(?=a)b"))
    assert wrong is not None
    assert "\n" not in wrong
    assert ".cc:" not in wrong
    other = specification("grammar", 'root ::= "yes"', allowed=(5,))
    assert await client.try_out(other) == NOT_WITH_ALLOWED
    # Nothing of it is left.
    await wait_until(lambda: not children())


async def test_a_trial_that_nobody_waits_for_is_killed_and_others_go_on() -> None:
    # Without a bound on a step it would go on for minutes.
    async with open_trial_client(guidance(), Budget(cpu_s=600, step_cpu_s=600)) as client:
        costly = specification("json", {"enum": [f"{number}" * 40 for number in range(60_000)]})
        trials = Trials(client.try_out)
        waiting = asyncio.create_task(trials.check(costly, key_id="attacker"))
        await wait_until(lambda: len(children()) == 1)
        await trials.check(specification("json", PERSON), key_id="victim")
        waiting.cancel()
        await asyncio.wait({waiting})
        await wait_until(lambda: not children())
        await trials.close()


async def test_the_kernel_ends_a_trial_at_its_budget() -> None:
    async with open_trial_client(guidance(), Budget(cpu_s=0.02, step_cpu_s=600)) as client:
        large = specification("json", {"enum": [f"{number}" * 40 for number in range(20_000)]})
        assert await client.try_out(large) == TOO_COSTLY
    little = Budget(cpu_s=60, step_cpu_s=60, memory_bytes=1 << 20)
    async with open_trial_client(guidance(), little) as client:
        assert await client.try_out(large) == TOO_COSTLY


async def test_a_server_that_died_is_started_anew() -> None:
    async with open_trial_client(guidance(), BUDGET) as client:
        assert await client.try_out(specification("json", PERSON)) is None
        server = trial_server()
        server.kill()
        await wait_until(lambda: not server.is_running() or server.status() == "zombie")
        trials = Trials(client.try_out)
        with pytest.raises(EngineRefused):
            await trials.check(specification("lark", "start: x\nx: start"), key_id="key")
        await trials.close()
