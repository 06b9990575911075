"""What is kept of responses: in Redis for a while, in MongoDB for long, by key, and what goes on from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relais_common.queue import keys
from relais_testing.batches import BatchClient, encode, line
from relais_testing.builders import MODEL
from relais_testing.kept import Kept
from relais_testing.keys import KeyFile, bearer
from relais_testing.stack import Front, Stack, answer_to, answer_to_prompt
from relais_testing.waiting import wait_until

pytestmark = pytest.mark.usefixtures("worker")


async def asked(front: Front, **fields: Any) -> dict[str, Any]:
    body = {"model": MODEL, "input": "a", "max_output_tokens": 8, **fields}
    async with front.post("/v1/responses", body) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
        return answer


async def status(front: Front, response_id: str, query: str = "", **headers: str) -> int:
    async with front.get(f"/v1/responses/{response_id}{query}", headers=headers) as response:
        await response.read()
        code: int = response.status
        return code


def text_of(answer: dict[str, Any]) -> str:
    text: str = answer["output"][0]["content"][0]["text"]
    return text


async def leaves_redis(stack: Stack, kept: Kept, answer: dict[str, Any]) -> None:
    """Its result expires, once the database has it."""
    channel_id = answer["id"].removeprefix("resp_")

    async def stored() -> bool:
        return await kept.database["responses"].count_documents({"_id": channel_id}) == 1

    await wait_until(stored)
    redis: Any = stack.store.redis
    await redis.delete(keys.job(channel_id), keys.log(channel_id))


async def test_stored_response_outlives_its_result(front: Front, stack: Stack, kept: Kept) -> None:
    first = await asked(front, metadata={"a": "b"})
    second = await asked(front, input="b", previous_response_id=first["id"])
    for one in (first, second):
        await leaves_redis(stack, kept, one)
        async with front.get(f"/v1/responses/{one['id']}") as response:
            assert await response.json() == one
    async with front.get(f"/v1/responses/{second['id']}/input_items") as response:
        (item,) = (await response.json())["data"]
    assert item["content"] == [{"type": "input_text", "text": "b"}]
    third = await asked(front, input="c", previous_response_id=second["id"])
    prompt = f"<user>a<assistant>{answer_to('a', 8)}<user>b<assistant>{text_of(second)}"
    assert text_of(third) == answer_to_prompt(f"{prompt}<user>c<assistant>", 8)
    async with front.get(f"/v1/responses/{second['id']}?stream=true") as response:
        streamed = await response.text()
    assert streamed.count("event: response.output_text.delta") == 1
    assert "event: response.incomplete" in streamed
    assert await status(front, second["id"], "?stream=true&starting_after=3") == 400


async def test_one_that_is_not_stored_is_in_no_database(
    front: Front, stack: Stack, kept: Kept
) -> None:
    answer = await asked(front, store=False)
    assert answer["store"] is False
    assert await status(front, answer["id"]) == 200
    await kept.document(answer["id"].removeprefix("resp_"))  # its trace
    assert await kept.database["responses"].count_documents({}) == 0


async def test_deleted_one_does_not_come_back(front: Front, stack: Stack, kept: Kept) -> None:
    answer = await asked(front)
    async with front.delete(f"/v1/responses/{answer['id']}") as response:
        assert (await response.json())["deleted"] is True
    await kept.document(answer["id"].removeprefix("resp_"))
    assert await status(front, answer["id"]) == 404
    (left,) = await kept.database["responses"].find({}).to_list(None)
    assert left["deleted"] is True
    assert "input" not in left


async def test_other_keys_see_nothing(stack: Stack, kept: Kept, tmp_path: Path) -> None:
    key_file = KeyFile(tmp_path / "keys.json", one={}, other={})
    front = await stack.front(WATCH_LEASE_S="60", **kept.settings, **key_file.settings)
    mine, theirs = bearer("one"), bearer("other")
    body = {"model": MODEL, "input": "a", "max_output_tokens": 8}
    async with front.post("/v1/responses", body, headers=mine) as response:
        answer = await response.json()
    for _ in range(2):
        assert await status(front, answer["id"], **theirs) == 404
        assert await status(front, answer["id"], **mine) == 200
        follow = {**body, "previous_response_id": answer["id"]}
        async with front.post("/v1/responses", follow, headers=theirs) as response:
            assert (await response.json())["error"]["code"] == "previous_response_not_found"
        await leaves_redis(stack, kept, answer)


async def test_without_a_database_it_is_there_for_a_while_and_says_so(stack: Stack) -> None:
    front = await stack.front(WATCH_LEASE_S="60")
    first = await asked(front)
    assert first["store"] is False
    second = await asked(front, input="b", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    body = {"model": MODEL, "input": "a", "store": True}
    async with front.post("/v1/responses", body) as response:
        error = (await response.json())["error"]
    assert (response.status, error["param"], error["code"]) == (400, "store", "unsupported_value")


async def test_chains_and_records_are_bounded(stack: Stack, kept: Kept) -> None:
    front = await stack.front(
        WATCH_LEASE_S="60",
        RESPONSES_MAX_CHAIN="2",
        RESPONSES_MAX_CHAIN_BYTES="2000",
        RESPONSES_MAX_BYTES="3000",
        **kept.settings,
    )

    async def refused(**fields: Any) -> tuple[int, str]:
        async with front.post("/v1/responses", {"model": MODEL, "input": "a", **fields}) as one:
            return one.status, (await one.json())["error"]["code"]

    first = await asked(front)
    second = await asked(front, previous_response_id=first["id"])
    third = await asked(front, previous_response_id=second["id"])
    assert await refused(previous_response_id=third["id"]) == (400, "chain_too_long")
    long = await asked(front, input="a" * 1900)
    assert await refused(previous_response_id=long["id"]) == (413, "request_too_large")
    assert await refused(input="a" * 3000) == (413, "request_too_large")
    assert (await asked(front, input="a" * 3000, store=False))["store"] is False


async def test_a_batch_takes_responses(front: Front, kept: Kept) -> None:
    first = await asked(front)
    client = BatchClient(front.session)
    bodies = (
        {"input": "b", "max_output_tokens": 8, "previous_response_id": first["id"]},
        {"input": "a", "max_output_tokens": 8, "store": False},
    )
    lines = [
        line(number, url="/v1/responses", body={"model": MODEL, **body})
        for number, body in enumerate(bodies)
    ]
    batch = await client.ended(await client.create(encode(lines), "/v1/responses"))
    found = await client.content(batch["output_file_id"])
    second, third = (one["response"]["body"] for one in found)
    prompt = f"<user>a<assistant>{text_of(first)}<user>b<assistant>"
    assert text_of(second) == answer_to_prompt(prompt, 8)
    assert text_of(third) == answer_to("a", 8)
    assert await status(front, second["id"]) == 200
    wrong = line(0, url="/v1/responses", body={"model": MODEL, "input": "a", "background": True})
    part = {"type": "input_image", "image_url": "https://example.org/a.png"}
    item = {"role": "user", "content": [part]}
    fetched = line(1, url="/v1/responses", body={"model": MODEL, "input": [item]})
    failed = await client.ended(await client.create(encode([wrong, fetched]), "/v1/responses"))
    assert failed["status"] == "failed"
    errors = [(one["line"], one["param"]) for one in failed["errors"]["data"]]
    assert errors == [(1, "body.background"), (2, "body.input.0.content.0.image_url")]
