"""`/v1/tokenize` and `/v1/detokenize`, under both of their paths."""

from __future__ import annotations

from typing import Any

import pytest

from relais_testing.builders import MODEL
from relais_testing.stack import Front, Stack

pytestmark = pytest.mark.usefixtures("worker")
MESSAGES = [{"role": "user", "content": "é"}]
TOOL = {"type": "function", "function": {"name": "f"}}


async def ask(front: Front, path: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    async with front.post(path, {"model": MODEL, **fields}) as response:
        body: dict[str, Any] = await response.json()
        return response.status, body


@pytest.mark.parametrize("prefix", ["/v1", ""])
async def test_a_text_becomes_ids_and_they_the_text(front: Front, prefix: str) -> None:
    status, told = await ask(front, f"{prefix}/tokenize", prompt="é b")
    assert (status, told["tokens"], told["count"]) == (200, list("é b".encode()), 4)
    assert told["token_strs"] is None
    assert await ask(front, f"{prefix}/detokenize", tokens=told["tokens"]) == (
        200,
        {"prompt": "é b"},
    )


async def test_each_token_is_told_as_text_where_asked(front: Front) -> None:
    _, told = await ask(front, "/v1/tokenize", prompt="ab", return_token_strs=True)
    assert (told["tokens"], told["token_strs"], told["count"]) == ([97, 98], ["a", "b"], 2)


async def test_a_chat_is_counted_with_its_tools(front: Front) -> None:
    _, plain = await ask(front, "/v1/tokenize", messages=MESSAGES)
    assert bytes(plain["tokens"]).decode() == "<user>é<assistant>"
    _, with_tools = await ask(front, "/v1/tokenize", messages=MESSAGES, tools=[TOOL])
    assert with_tools["count"] > plain["count"] + 10


async def test_a_prompt_is_counted_as_it_would_be_made(front: Front) -> None:
    turns = [*MESSAGES, {"role": "assistant", "content": "Well,"}]
    begun = {"add_generation_prompt": False, "continue_final_message": True}
    for fields, text in (
        ({"add_generation_prompt": True}, "<user>é<assistant>Well,<assistant>"),
        ({"add_generation_prompt": False}, "<user>é<assistant>Well,"),
        (begun, "<user>é<assistant>Well,"),
        ({"add_special_tokens": True}, "\0<user>é<assistant>Well,<assistant>"),
        ({"add_special_tokens": False}, "<user>é<assistant>Well,<assistant>"),
    ):
        _, told = await ask(front, "/v1/tokenize", messages=turns, **fields)
        assert bytes(told["tokens"]).decode() == text
    _, told = await ask(front, "/v1/tokenize", prompt="a", add_special_tokens=False)
    assert told["tokens"] == list(b"a")


async def test_it_waits_in_the_queue_and_counts_no_tokens(stack: Stack, front: Front) -> None:
    await ask(front, "/v1/tokenize", prompt="abc")
    async with front.get("/v1/usage") as response:
        total = (await response.json())["total"]
    assert (total["requests"], total["input_tokens"], total["output_tokens"]) == (1, 0, 0)
    assert await stack.idle()


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/tokenize", {}, None),
        ("/v1/tokenize", {"prompt": "a", "messages": MESSAGES}, None),
        ("/v1/tokenize", {"prompt": "a", "tools": [TOOL]}, None),
        ("/v1/tokenize", {"prompt": 5}, "prompt"),
        (
            "/v1/tokenize",
            {"messages": MESSAGES, "continue_final_message": True},
            "continue_final_message",
        ),
        ("/v1/tokenize", {"prompt": "a", "return_token_strs": 1}, "return_token_strs"),
        ("/v1/tokenize", {"prompt": "a " * 400_000}, "prompt"),
        ("/v1/detokenize", {}, "tokens"),
        ("/v1/detokenize", {"tokens": []}, "tokens"),
        ("/v1/detokenize", {"tokens": ["a"]}, "tokens.0"),
        ("/v1/detokenize", {"tokens": [256]}, "tokens"),
        ("/v1/detokenize", {"tokens": [1] * 150_000}, "tokens"),
    ],
)
async def test_bad_requests_are_refused_by_name(
    front: Front, path: str, fields: dict[str, Any], param: str | None
) -> None:
    status, body = await ask(front, path, **fields)
    assert (status, body["error"]["param"]) == (400, param)
