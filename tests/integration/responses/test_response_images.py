"""Images in the input of responses: what the model gets of them, what is kept, and what is refused."""

from __future__ import annotations

import base64
from typing import Any

import openai
import pytest

from relais_orchestrator.api.schemas.images import MAX_IMAGES
from relais_testing.builders import MODEL
from relais_testing.stack import Front, Stack
from relais_testing.waiting import wait_until

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
GIF = b"GIF89a" + bytes(30)
TEXT = {"type": "input_text", "text": "What is it?"}


def url(image: bytes = PNG, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


def image(**fields: Any) -> dict[str, Any]:
    return {"type": "input_image", "image_url": url(), "detail": "auto", **fields}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [*parts]}


def chat_part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "input_text":
        return {"type": "text", "text": part["text"]}
    shown = {"url": part["image_url"], "detail": part["detail"]}
    return {"type": "image_url", "image_url": shown}


async def chat_says(client: openai.AsyncOpenAI, *messages: Any) -> str:
    """What a chat with these messages answers, whose parts are those of responses."""
    turns: Any = [
        {**turn, "content": [*map(chat_part, turn["content"])]}
        if isinstance(turn["content"], list)
        else turn
        for turn in messages
    ]
    answer = await client.chat.completions.create(model=MODEL, messages=turns, max_tokens=9)
    return answer.choices[0].message.content or ""


async def respond(client: openai.AsyncOpenAI, *items: Any, **fields: Any) -> Any:
    given: Any = [*items]
    return await client.responses.create(model=MODEL, input=given, max_output_tokens=9, **fields)


@pytest.mark.usefixtures("worker")
async def test_the_model_gets_them_as_in_chats(client: openai.AsyncOpenAI) -> None:
    asked = user(TEXT, image(detail="low"), TEXT, image(image_url=url(GIF, "image/gif")))
    answer = await respond(client, asked)
    assert answer.output_text == await chat_says(client, asked)
    listed: Any = await client.responses.input_items.list(answer.id)
    (kept,) = listed.data
    assert [part.to_dict() for part in kept.content] == [
        part | ({"file_id": None} if part["type"] == "input_image" else {})
        for part in asked["content"]
    ]


@pytest.mark.usefixtures("worker")
async def test_a_conversation_keeps_them(client: openai.AsyncOpenAI, kept: Any) -> None:
    asked = user(TEXT, image())
    first = await respond(client, asked)
    await kept.document(first.id.removeprefix("resp_"))
    said = {"role": "assistant", "content": first.output_text}
    again = {"role": "user", "content": "And?"}
    second = await respond(client, again, previous_response_id=first.id)
    assert second.output_text == await chat_says(client, asked, said, again)
    counted: Any = await client.responses.input_tokens.count(
        model=MODEL, input="And?", previous_response_id=first.id
    )
    assert counted.input_tokens == second.usage.input_tokens


@pytest.mark.usefixtures("worker")
async def test_a_fetched_one_is_kept_as_it_was(
    client: openai.AsyncOpenAI, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetches: list[dict[str, str]] = []

    class Fetcher:
        async def fetch(self, _: str, addresses: dict[str, str]) -> dict[str, str]:
            fetches.append(addresses)
            return dict.fromkeys(addresses, url(GIF, "image/gif"))

    monkeypatch.setattr(front.parts.images, "_fetcher", Fetcher())
    asked = [image(), image(image_url="https://example.org/a.gif")]
    output = {"type": "function_call_output", "call_id": "c", "output": [asked[1]]}
    call = {"type": "function_call", "call_id": "c", "name": "see", "arguments": "{}"}
    first = await respond(client, user(TEXT, *asked), call, output)
    second = await respond(client, user(TEXT), previous_response_id=first.id)
    assert [len(addresses) for addresses in fetches] == [2]
    listed: Any = await client.responses.input_items.list(first.id)
    seen, _, asking = listed.data
    urls = [part.image_url for part in (*asking.content[1:], *seen.output)]
    assert urls == [url(), url(GIF, "image/gif"), url(GIF, "image/gif")]
    assert second.output_text


@pytest.mark.usefixtures("worker")
async def test_a_tool_may_return_one(client: openai.AsyncOpenAI) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": [TEXT, image()]}
    answers = [
        (await respond(client, user(TEXT), call, {**output, "output": one})).output_text
        for one in ([TEXT, image()], [TEXT], "What is it?")
    ]
    assert answers[0] != answers[1] == answers[2]
    stored: Any = await respond(client, user(TEXT), call, output)
    newest: Any = (await client.responses.input_items.list(stored.id)).data[0]
    assert [part.type for part in newest.output] == ["input_text", "input_image"]


@pytest.mark.usefixtures("worker")
async def test_a_background_response_counts_them(client: openai.AsyncOpenAI, front: Front) -> None:
    queued = await respond(client, user(TEXT, image(), image()), background=True)

    async def result() -> Any:
        channel_id = queued.id.removeprefix("resp_")
        return (await front.state(channel_id, Authorization="Bearer any"))["result"]

    assert (await wait_until(result))["usage"]["images"] == 2


@pytest.mark.parametrize(
    ("role", "part", "param", "code"),
    [
        ("user", image(image_url="data:image/png;base64,%%%"), "image_url", "invalid_value"),
        ("user", image(image_url="file:///etc/passwd"), "image_url", "unsupported_value"),
        ("user", image(detail="huge"), "detail", "unsupported_value"),
        ("user", {"type": "input_image", "file_id": "file-1"}, "file_id", "unsupported_parameter"),
        ("user", {"type": "input_image"}, "image_url", "missing_required_parameter"),
        ("user", {"type": "input_file", "file_id": "file-1"}, "type", "unsupported_value"),
        ("user", {"text": "?"}, "type", "missing_required_parameter"),
        ("assistant", image(), "type", "invalid_value"),
    ],
)
async def test_what_is_wrong_is_named_and_queues_nothing(
    front: Front, stack: Stack, role: str, part: dict[str, Any], param: str, code: str
) -> None:
    asked = {"role": role, "content": [TEXT, part]}
    async with front.post("/v1/responses", {"model": MODEL, "input": [asked]}) as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (400, code)
    assert error["param"] == f"input.0.content.1.{param}"
    assert "etc/passwd" not in error["message"]
    assert await stack.idle()


@pytest.mark.usefixtures("worker")
async def test_they_are_bounded_in_number_also_over_a_conversation(
    client: openai.AsyncOpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await respond(client, user(*[image()] * (MAX_IMAGES + 1)))
    assert refused.value.param == "input"
    first = await respond(client, user(*[image()] * MAX_IMAGES))
    with pytest.raises(openai.BadRequestError) as refused:
        await respond(client, user(image()), previous_response_id=first.id)
    assert (refused.value.param, refused.value.code) == ("previous_response_id", "chain_too_long")
