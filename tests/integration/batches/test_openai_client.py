"""OpenAI's own client, unchanged, against `/v1/files` and `/v1/batches`; and the example that uses it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import openai
import pytest

import batch as example
from relais_testing.batches import CHAT, encode, lines
from relais_testing.builders import MODEL
from relais_testing.stack import Front, Stack, answer_to
from relais_testing.worker import Worker


@pytest.fixture
def client(front: Front) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="any", max_retries=0) as client:
        yield client


async def test_example_prints_the_answer_of_each_prompt(
    client: openai.OpenAI, worker: Worker
) -> None:
    def run() -> dict[int, str]:
        batch = example.submit(client, MODEL, ["one", "two"], max_tokens=5)
        batch = example.wait(client, batch, every_s=0.05)
        assert batch.status == "completed"
        return example.answers(client, batch)

    assert await asyncio.to_thread(run) == {0: answer_to("one", 5), 1: answer_to("two", 5)}


async def test_example_tells_why_there_is_no_answer(client: openai.OpenAI, stack: Stack) -> None:
    def run() -> dict[int, str]:
        batch = example.submit(client, MODEL, ["one"])
        client.batches.cancel(batch.id)
        return example.answers(client, example.wait(client, batch, every_s=0.05))

    found = await asyncio.to_thread(run)
    # Cancelled before it was validated, a batch has no files.
    assert all(text.startswith("not run") for text in found.values())


async def test_files_and_batches_as_the_client_has_them(
    client: openai.OpenAI, worker: Worker
) -> None:
    def run() -> None:
        file = client.files.create(
            file=("a.jsonl", encode(lines(3))),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert client.files.retrieve(file.id) == file
        assert [one.id for one in client.files.list(purpose="batch", limit=1)] == [file.id]
        assert client.files.content(file.id).content == encode(lines(3))
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint=CHAT,
            completion_window="24h",
            metadata={"a": "b"},
            output_expires_after={"anchor": "created_at", "seconds": 7200},
        )
        assert [one.id for one in client.batches.list(limit=1)] == [batch.id]
        batch = example.wait(client, batch, every_s=0.05)
        assert (batch.status, batch.metadata) == ("completed", {"a": "b"})
        assert batch.usage is not None
        assert batch.usage.output_tokens == 12
        assert batch.output_file_id is not None
        output = client.files.retrieve(batch.output_file_id)
        assert output.expires_at is not None
        assert output.expires_at - output.created_at == 7200
        found = client.files.content(batch.output_file_id).text.splitlines()
        assert [json.loads(one)["custom_id"] for one in found] == ["r-0", "r-1", "r-2"]
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch.id)
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)

    await asyncio.to_thread(run)
