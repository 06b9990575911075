"""A parser that takes long holds up its own answer, not the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Iterator, Sequence

import pytest

from relais_common.jobs.chat import ChatOptions, Message
from relais_llm_worker.engine import Chunk
from relais_llm_worker.engines.parsing import SHORT_TOKENS, Parsing
from relais_llm_worker.parsed_answer import Parsed, ParsedAnswer

COST_S = 0.01


class Parser:
    """Takes its time for every portion, and for the whole."""

    def __init__(self, cost_s: float) -> None:
        self._cost_s = cost_s

    def feed(self, text: str, token_ids: Sequence[int], *, finished: bool) -> Parsed:
        burn(self._cost_s)
        return Parsed(text.upper())

    def whole(self, text: str, token_ids: Sequence[int]) -> Message:
        burn(self._cost_s)
        return Message("assistant", text.upper())

    def reasoning_tokens(self, token_ids: Sequence[int]) -> int | None:
        return None


def burn(seconds: float) -> None:
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


@pytest.fixture
def parsing() -> Iterator[Parsing]:
    parsing = Parsing()
    yield parsing
    parsing.close()


async def read(parsing: Parsing, name: str, cost_s: float, tokens: int) -> str:
    answer = parsing.of(name, ParsedAnswer(Parser(cost_s), ChatOptions()))
    told = []
    for number in range(tokens):
        reason = "stop" if number == tokens - 1 else None
        told += await answer.tell_apart([Chunk((number,), chr(97 + number % 26), reason)])
    return "".join(chunk.text for chunk in told)


async def test_a_slow_parser_takes_little_of_the_event_loop(parsing: Parsing) -> None:
    tokens = 30
    began_s = time.thread_time()
    slow = asyncio.create_task(read(parsing, "slow", COST_S, tokens))
    quick = await read(parsing, "quick", 0.0, tokens)
    assert not slow.done()
    assert await slow == quick == ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCD")
    # The first portion says that it is slow.
    assert time.thread_time() - began_s < tokens * COST_S / 3


async def test_long_answers_are_read_as_a_whole_in_the_thread(parsing: Parsing) -> None:
    answer = parsing.of("long", ParsedAnswer(Parser(0.0), ChatOptions()))
    for number in range(SHORT_TOKENS + 1):
        await answer.tell_apart([Chunk((number,), "a", None)])
    parser = Parser(0.5)
    answer._parsed._parser = parser
    began_s = time.thread_time()
    await answer.tell_apart([Chunk((1,), "a", "stop")])
    assert time.thread_time() - began_s < 0.25


@pytest.mark.parametrize("fits", [True, False])
async def test_a_long_answer_is_restored_beside_the_event_loop(
    parsing: Parsing, fits: bool
) -> None:
    def steps() -> Generator[None, None, bool]:
        for _ in range(30):
            burn(COST_S)
            yield
        return fits

    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    counting = asyncio.create_task(count())
    began_s = time.thread_time()
    restored = await parsing.restored("a", steps())
    assert restored is fits
    assert time.thread_time() - began_s < 30 * COST_S / 3
    assert turns > 10
    counting.cancel()
