"""Images in chats: what is accepted, what is refused before it is queued, and where their bytes go."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from dataclasses import replace
from typing import Any

import openai
import pytest
from redis import Redis

from relais_common.jobs.job import WorkerState
from relais_common.queue import images as queue_images
from relais_orchestrator.api.schemas import images
from relais_testing.builders import MODEL
from relais_testing.stack import Front, Stack
from relais_testing.waiting import wait_until

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
GIF = b"GIF89a" + bytes(30)
CHAT, NATIVE = "/v1/chat/completions", "/v1/requests"


def url(image: bytes = PNG, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


def part(address: str | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": address or url(), **more}}


def messages(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, *parts]}]


async def post(front: Front, body: dict[str, Any], route: str = CHAT) -> tuple[int, Any]:
    async with front.post(route, {"model": MODEL, **body}) as response:
        return response.status, await response.json()


async def ended(front: Front, channel_id: str) -> dict[str, Any]:
    await wait_until(lambda: front.is_terminal(channel_id))
    return await front.state(channel_id)


@pytest.mark.usefixtures("worker")
async def test_images_change_the_answer_and_their_order_counts(client: openai.AsyncOpenAI) -> None:
    async def said(*parts: dict[str, Any]) -> str:
        asked: Any = messages(*parts)
        answer = await client.chat.completions.create(model=MODEL, messages=asked, max_tokens=9)
        return answer.choices[0].message.content or ""

    png, gif = part(), part(url(GIF, "image/gif"), detail="low")
    answers = [await said(*parts) for parts in ((), (png,), (png, gif), (gif, png), (png, png))]
    assert len(set(answers)) == 5


@pytest.mark.usefixtures("worker")
async def test_native_requests_count_their_images(front: Front) -> None:
    channel_id = await front.submit({"model": MODEL, "messages": messages(part(), part())})
    assert (await ended(front, channel_id))["result"]["usage"]["images"] == 2


@pytest.mark.parametrize("route", [CHAT, NATIVE])
@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        (part("data:image/png;base64,%%%"), "image_url.url", "invalid_value"),
        (part(url(b"<svg/>", "image/svg+xml")), "image_url.url", "invalid_value"),
        (part(url(b"no image")), "image_url.url", "invalid_value"),
        (part("data:image/png,abc"), "image_url.url", "invalid_value"),
        # What stands for stored images within a queued request.
        (part("data:image/png;base64,(4000 characters)"), "image_url.url", "invalid_value"),
        (part("(4000 characters)"), "image_url.url", "unsupported_value"),
        (part(hashlib.sha256(PNG).hexdigest()), "image_url.url", "unsupported_value"),
        (part("file:///etc/passwd"), "image_url.url", "unsupported_value"),
        (part("https://example.org/" + "a" * 3000), "image_url.url", "invalid_value"),
        (part(detail="huge"), "image_url.detail", "unsupported_value"),
        ({"type": "image_url"}, "image_url", "missing_required_parameter"),
    ],
)
async def test_what_is_no_image_is_refused_by_name(
    front: Front, route: str, given: dict[str, Any], param: str, code: str
) -> None:
    status, body = await post(front, {"messages": messages(given)}, route)
    assert (status, body["error"]["code"]) == (400, code)
    assert body["error"]["param"] == f"messages.0.content.1.{param}"
    assert "etc/passwd" not in json.dumps(body)


async def test_addresses_are_refused_unless_their_host_is_allowed(front: Front) -> None:
    status, body = await post(front, {"messages": messages(part("https://example.org/a.png"))})
    assert (status, body["error"]["param"]) == (400, "messages.0.content.1")


async def test_images_are_bounded_in_number_and_size(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [part()] * (images.MAX_IMAGES + 1)
    status, body = await post(front, {"messages": messages(*many)})
    assert (status, body["error"]["param"]) == (400, "messages")
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 90)
    status, body = await post(front, {"messages": messages(part(url(PNG + bytes(100))))})
    assert (status, body["error"]["param"]) == (400, "messages.0.content.1.image_url.url")


async def test_a_model_that_takes_none_refuses_them_before_they_are_queued(front: Front) -> None:
    blind = WorkerState(
        worker_id="blind", model=MODEL, capacity=1, running=0, supports_images=False
    )
    await front.parts.registry.beat(blind, ttl_s=60)
    status, body = await post(front, {"messages": messages(part())})
    assert (status, body["error"]["param"]) == (400, "messages.0.content.1")
    assert MODEL in body["error"]["message"]


async def test_a_worker_refuses_what_was_queued_for_another(stack: Stack, front: Front) -> None:
    worker = await stack.worker()
    engine = worker.engine
    engine._info = replace(engine.info, supports_images=False)
    # Its first heartbeat has said otherwise, and the orchestrator has not looked yet.
    status, body = await post(front, {"messages": messages(part())})
    assert (status, body["error"]["param"]) == (400, "messages.0.content.1")


async def test_nothing_of_them_outlives_the_job(stack: Stack, front: Front, redis_url: str) -> None:
    noise = url(PNG + random.Random(1).randbytes(3000))
    data = noise.encode().partition(b",")[2]

    def holders() -> list[bytes]:
        with Redis.from_url(redis_url) as redis:
            # As it lies in memory, without compression.
            redis.config_set("rdbcompression", "no")
            return [key for key in redis.scan_iter("*") if data in (redis.dump(key) or b"")]

    asked = {"model": MODEL, "messages": messages(part(noise), part(noise))}
    channel_ids = [await front.submit(asked) for _ in range(3)]
    (holder,) = holders()
    assert b":image:" in holder
    await stack.worker()
    answers = [(await ended(front, channel_id))["result"] for channel_id in channel_ids]
    assert [answer["usage"]["images"] for answer in answers] == [2, 2, 2]
    assert not holders()


async def test_stored_images_give_the_same_answer_as_those_in_the_request(
    stack: Stack, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stack.worker()
    noise = part(url(PNG + random.Random(2).randbytes(3000)))
    asked = {"model": MODEL, "messages": messages(noise, part(), noise)}
    texts = []
    for least_bytes in (queue_images.LEAST_BYTES, 10**9):
        monkeypatch.setattr(queue_images, "LEAST_BYTES", least_bytes)
        answer = await ended(front, await front.submit(asked))
        texts.append(answer["result"]["text"])
    assert texts[0] == texts[1]


async def test_request_whose_image_is_gone_from_redis_fails_by_name(
    stack: Stack, front: Front, redis_url: str
) -> None:
    noise = url(PNG + random.Random(3).randbytes(3000))
    channel_id = await front.submit({"model": MODEL, "messages": messages(part(noise))})
    with Redis.from_url(redis_url) as redis:
        assert redis.delete(*redis.keys("*:image:*")) == 1
    await stack.worker()
    state = await ended(front, channel_id)
    assert (state["status"], state["error"]["code"]) == ("failed", "image_lost")
    assert noise[:100] not in json.dumps(state)
