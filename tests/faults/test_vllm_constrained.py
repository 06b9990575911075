"""Real vLLM killed in the middle of answers that must follow a schema, or that count their own tokens.

Every worker is killed once, at a random token. `pytest --full-counts` makes 350 requests instead of a few.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import openai
import pytest

from relais_testing.process_stack import MODEL, VLLM_ON_CPU, Starter

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(3600)]

AT_ONCE = 32
WORKER = {**VLLM_ON_CPU, "VLLM_MAX_NUM_SEQS": str(AT_ONCE)}
PATIENT = {"WATCH_LEASE_S": "60"}
REMARKS = [
    "La salle d'attente de la mairie était propre, merci.",
    "Le guichet de la préfecture était fermé à midi.",
    "J'ai attendu très longtemps à l'hôpital.",
    "The website of the tax office does not work.",
]
SUBJECTS = ["accueil", "attente", "horaires", "site", "propreté"]
SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "subjects": {
                "type": "array",
                "items": {"enum": SUBJECTS},
                "minItems": length,
                "maxItems": length,
            },
            "urgent": {"type": "boolean"},
            "summary": {"type": "string", "maxLength": 40 + length},
        },
        "required": ["subjects", "urgent", "summary"],
        "additionalProperties": False,
    }
    for length in (20, 35, 50)
]
NAMED: Any = {"type": "function", "function": {"name": "file"}}


@dataclass(slots=True)
class Ask:
    """One request, and what has come of its answer."""

    body: dict[str, Any]
    streamed: bool
    schema: dict[str, Any] | None = None
    content: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)
    reason: str | None = None
    progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    def told(self) -> tuple[str, list[list[str]], str | None]:
        return self.content, list(self.calls.values()), self.reason

    def length(self) -> int:
        return len(self.content) + sum(len(one[1]) for one in self.calls.values())

    async def reaches(self, length: int) -> None:
        """Wait until more than so many characters have come."""
        async with self.progress:
            await self.progress.wait_for(lambda: self.length() > length)

    def again(self) -> Ask:
        return Ask(self.body, self.streamed, self.schema)

    async def run(self, client: openai.AsyncOpenAI) -> None:
        create: Any = client.chat.completions.create
        if self.streamed:
            async for chunk in await create(**self.body, stream=True):
                (choice,) = chunk.choices
                self.take(choice.delta, choice.finish_reason)
                async with self.progress:
                    self.progress.notify_all()
        else:
            (choice,) = (await create(**self.body)).choices
            self.take(choice.message, choice.finish_reason)

    def take(self, said: Any, reason: str | None) -> None:
        self.content += said.content or ""
        self.reason = reason or self.reason
        for position, call in enumerate(said.tool_calls or ()):
            name, arguments = call.function.name or "", call.function.arguments or ""
            known = self.calls.setdefault(getattr(call, "index", position), ["", ""])
            known[0] += name
            known[1] += arguments

    def check(self) -> None:
        """What must be JSON is, and follows its schema."""
        if self.schema is None:
            return
        texts = [arguments for _, arguments in self.calls.values()] or [self.content]
        for text in texts:
            jsonschema.validate(json.loads(text), self.schema)


def asks(counts: dict[str, int]) -> list[Ask]:
    return [
        ask
        for name, make in MAKERS.items()
        for number in range(counts[name])
        for ask in [make(number)]
    ]


def body(number: int, **fields: Any) -> dict[str, Any]:
    content = f"{REMARKS[number % len(REMARKS)]} ({number})"
    common = {"model": MODEL, "messages": [{"role": "user", "content": content}]}
    return {**common, "temperature": 0, "max_tokens": 700, **fields}


def of_tools(number: int) -> Ask:
    schema = SCHEMAS[number % len(SCHEMAS)]
    tool = {"type": "function", "function": {"name": "file", "parameters": schema}}
    # The demo model never stops to call, where it may call more than once.
    alone = {"parallel_tool_calls": False}
    choice: Any = NAMED if number % 4 < 2 else "required"
    asked = body(number, tools=[tool], tool_choice=choice, **alone)
    return Ask(asked, number % 2 == 0, schema)


def of_schemas(number: int) -> Ask:
    schema = SCHEMAS[number % len(SCHEMAS)]
    response_format = {"type": "json_schema", "json_schema": {"name": "remark", "schema": schema}}
    return Ask(body(number, response_format=response_format), number % 2 == 0, schema)


def of_penalties(number: int) -> Ask:
    extra: dict[str, Any] = {"ignore_eos": True}
    penalties: list[dict[str, Any]] = [
        {"presence_penalty": 0.8},
        {"frequency_penalty": 0.4, "presence_penalty": -0.2},
        {"seed": number, "temperature": 0.9},
        {"frequency_penalty": 0.2},
    ]
    if number % 2:
        extra["bad_words"] = ["vous"]
    asked = body(number, extra_body=extra, **penalties[number % len(penalties)])
    return Ask(asked | {"max_tokens": 300}, True)


MAKERS = {"tools": of_tools, "schemas": of_schemas, "penalties": of_penalties}
FEW = {"tools": 6, "schemas": 4, "penalties": 4}
FULL = {"tools": 200, "schemas": 100, "penalties": 50}


@pytest.fixture
def counts(pytestconfig: pytest.Config) -> dict[str, int]:
    return FULL if pytestconfig.getoption("full_counts") else FEW


@pytest.fixture
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url="", api_key="any", max_retries=0, timeout=600) as client:
        yield client


async def test_constrained_answers_outlive_their_workers(
    start: Starter, client: openai.AsyncOpenAI, counts: dict[str, int]
) -> None:
    chance = random.Random(18)
    front = start("orchestrator", **PATIENT)
    client.base_url = f"{front.url}/v1/"
    worker = start("llm_worker", **WORKER)
    undisturbed = asks(counts)
    chance.shuffle(undisturbed)
    room = asyncio.Semaphore(AT_ONCE)

    async def run(ask: Ask) -> None:
        async with room:
            await ask.run(client)

    await asyncio.gather(*map(run, undisturbed))
    for ask in undisturbed:
        ask.check()
    kills = 0
    for at in range(0, len(undisturbed), AT_ONCE):
        expected = undisturbed[at : at + AT_ONCE]
        continued: set[str] = set()
        # On a busy machine a token may be seen here when its answer, and all others, have long ended.
        while len(continued) < len(expected) // 3:
            cut = [ask.again() for ask in expected]
            running = [asyncio.create_task(ask.run(client)) for ask in cut]
            watched = chance.choice([number for number, ask in enumerate(cut) if ask.streamed])
            await cut[watched].reaches(int(expected[watched].length() * chance.uniform(0.02, 0.8)))
            worker.kill()
            kills += 1
            worker = start("llm_worker", **WORKER)
            await asyncio.gather(*running)
            for ask, whole in zip(cut, expected, strict=True):
                assert ask.told() == whole.told(), ask.body
                ask.check()
            told = worker.log_path.read_text().splitlines()
            continued = {json.loads(one)["channel_id"] for one in told if '"job_continued"' in one}
        print(f"{len(expected)} requests, {kills} kills, {len(continued)} continued")
