"""Processes that read large bodies: shared by turns, replaced when they die, gone with their parent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator

import pytest

from relais_common.jobs.errors import InternalError, InvalidRequest, ModelNotFound, PayloadTooLarge
from relais_orchestrator.submission.drafts import Asked
from relais_orchestrator.submission.reading import Reading
from relais_orchestrator.submission.reading.messages import answer_of
from relais_orchestrator.submission.reading.readers import SMALL_BYTES, Readers, open_readers
from relais_testing.waiting import wait_until

LARGE = json.dumps({"model": "m", "prompt": "x" * SMALL_BYTES}).encode()
WRONG = json.dumps({"model": "m", "prompt": "x" * SMALL_BYTES, "best_of": 2}).encode()


@pytest.fixture
async def readers() -> AsyncIterator[Readers]:
    async with open_readers() as readers:
        yield readers


def processes_of(readers: Readers) -> list[Process]:
    return [one._process for one in readers._readers if one._process is not None]


async def test_what_is_read_elsewhere_is_what_is_read_here(readers: Readers) -> None:
    asked = await readers.read(Reading.COMPLETION, LARGE, "one")
    assert asked == answer_of(Reading.COMPLETION, LARGE)
    assert isinstance(asked, Asked)
    assert asked.draft.prompts == ("x" * SMALL_BYTES,)


async def test_a_process_without_work_ends_and_another_starts_when_there_is_some() -> None:
    readers = Readers(idle_s=0.2)
    try:
        for _ in range(2):
            await readers.read(Reading.COMPLETION, LARGE, "one")
            (process,) = processes_of(readers)
            assert await process.wait() == 0
            assert processes_of(readers) == []
    finally:
        await readers.close()


async def test_refusals_keep_their_kind_and_words(readers: Readers) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await readers.read(Reading.COMPLETION, WRONG, "one")
    assert (caught.value.param, caught.value.code) == ("best_of", "unsupported_value")
    with pytest.raises(PayloadTooLarge):
        await readers.read(Reading.COMPLETION, b'"' * 200_000, "one")


async def test_unknown_fields_are_ignored_elsewhere_as_here() -> None:
    body = json.dumps({"model": "m", "prompt": "x" * SMALL_BYTES, "nope": 1}).encode()
    async with open_readers(ignore_unknown=True) as readers:
        asked = await readers.read(Reading.COMPLETION, body, "one")
    assert asked.ignored == ("nope",)
    assert asked == answer_of(Reading.COMPLETION, body, ignore_unknown=True)


async def test_one_key_s_bodies_wait_for_each_other_and_not_another_s(readers: Readers) -> None:
    many = [asyncio.create_task(readers.read(Reading.COMPLETION, LARGE, "many")) for _ in range(20)]
    await wait_until(lambda: processes_of(readers))
    (stuck,) = processes_of(readers)
    stuck.send_signal(signal.SIGSTOP)
    await readers.read(Reading.COMPLETION, LARGE, "few")
    stuck.send_signal(signal.SIGCONT)
    await asyncio.gather(*many)


async def test_body_of_a_client_that_left_is_read_to_its_end_and_the_next_gets_its_own(
    readers: Readers,
) -> None:
    await readers.read(Reading.COMPLETION, LARGE, "one")
    for _ in range(5):
        leaving = asyncio.create_task(readers.read(Reading.COMPLETION, WRONG, "one"))
        await asyncio.sleep(0)
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
    asked = await readers.read(Reading.COMPLETION, LARGE, "one")
    assert asked.draft.prompts == ("x" * SMALL_BYTES,)


async def test_process_that_died_is_replaced(readers: Readers) -> None:
    await readers.read(Reading.COMPLETION, LARGE, "one")
    (process,) = processes_of(readers)
    process.kill()
    await process.wait()
    with pytest.raises(InternalError):
        await readers.read(Reading.COMPLETION, LARGE, "one")
    await readers.read(Reading.COMPLETION, LARGE, "one")


async def test_process_ends_when_its_parent_does() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "relais_orchestrator.submission.reading"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(b"")
    assert (out, process.returncode) == (b"", 0)


def test_errors_cross_a_pipe_as_they_are() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(ModelNotFound("no such model", param="model")))
    assert (error.message, error.param, error.status) == ("no such model", "model", 404)
