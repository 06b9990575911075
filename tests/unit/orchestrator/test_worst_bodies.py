"""Whatever a body holds, reading it takes bounded work, and the event loop does next to none of it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from relais_common.jobs.errors import InvalidRequest, PayloadTooLarge
from relais_orchestrator.api import parsing
from relais_orchestrator.api.parsing import MAX_STRINGS, model_of
from relais_orchestrator.submission.reading import Reading, read
from relais_orchestrator.submission.reading.readers import SMALL_BYTES, Readers, open_readers
from relais_testing.builders import MODEL
from relais_testing.worst_bodies import ids_written_as_fractions, worst_bodies

CALLS = 50_000
"""Steps in Python that a body may take: a few for each of 2,048 messages, none for each of a million numbers."""


class Steps:
    """Calls of functions, Python's and C's, while it counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        self.count += event in ("call", "c_call")


@contextmanager
def counted() -> Iterator[Steps]:
    steps = Steps()
    sys.setprofile(steps)
    try:
        yield steps
    finally:
        sys.setprofile(None)


@pytest.fixture
def errors_built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many errors each refusal had to choose from."""
    built: list[int] = []
    refusal = parsing.refusal

    def counting(error: Any) -> InvalidRequest:
        built.append(error.error_count())
        return refusal(error)

    monkeypatch.setattr(parsing, "refusal", counting)
    return built


@pytest.mark.slow
@pytest.mark.parametrize("route", Reading, ids=lambda route: route.name)
def test_work_on_the_worst_bodies_of_every_route_is_bounded(
    route: Reading, errors_built: list[int]
) -> None:
    beyond = []
    for name, body in worst_bodies(route, MODEL):
        errors_built.clear()
        with counted() as steps:
            model_of(body)
            try:
                read(route, body)
            except (InvalidRequest, PayloadTooLarge):
                pass
        # An unknown field is an error each; nothing else may be.
        most = MAX_STRINGS if "members" in name or "unknown" in name else 100
        if steps.count > CALLS or sum(errors_built) > most:
            beyond.append((name, steps.count, sum(errors_built)))
    assert beyond == []


async def loop_s(readers: Readers, route: Reading, body: bytes) -> float:
    """Processor time that this thread takes for a body; others' are not counted."""
    began_s = time.thread_time()
    await readers.read(route, body, "one")
    return time.thread_time() - began_s


async def test_large_bodies_take_little_of_the_event_loop() -> None:
    body = ids_written_as_fractions(MODEL)
    began_s = time.thread_time()
    here = read(Reading.EMBEDDINGS, body)
    in_place_s = time.thread_time() - began_s
    async with open_readers() as readers:
        there = await readers.read(Reading.EMBEDDINGS, body, "one")  # starts the process
        assert there == here
        spent_s = min([await loop_s(readers, Reading.EMBEDDINGS, body) for _ in range(3)])
    assert spent_s < in_place_s / 3


async def test_no_large_body_is_parsed_by_the_event_loop_s_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relais_orchestrator.submission.reading.readers.read", None)
    async with open_readers() as readers:
        for route in (Reading.CHAT, Reading.SCORE):
            with pytest.raises(InvalidRequest):
                await readers.read(route, b'{"x":"' + b"x" * SMALL_BYTES + b'"}', "one")


async def test_the_loop_turns_while_a_large_body_is_read() -> None:
    body = ids_written_as_fractions(MODEL)
    async with open_readers() as readers:
        await readers.read(Reading.EMBEDDINGS, body, "one")
        reading = asyncio.create_task(readers.read(Reading.EMBEDDINGS, body, "one"))
        turns = 0
        while not reading.done():
            await asyncio.sleep(0.001)
            turns += 1
        await reading
    # Blocked, it would turn once or twice: to write the body, and to take what was made of it.
    assert turns > 10
