"""What a page of another origin may do: nothing, unless its origin is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from relais_testing.builders import MODEL
from relais_testing.keys import KeyFile
from relais_testing.stack import Front, Stack, chat_request

PAGE = "https://page.example"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type",
}


async def test_no_origin_is_allowed_by_default(front: Front) -> None:
    async with front.session.options("/v1/requests", headers=PREFLIGHT) as response:
        assert response.status == 405
    async with front.get("/v1/models", headers={"Origin": PAGE}) as response:
        assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("path", ["/v1/requests", "/v1/chat/completions", "/v1/models/a%2Fb"])
@pytest.mark.parametrize(
    ("allowed", "answer"), [("*", "*"), (f"https://other.example, {PAGE}", PAGE)]
)
async def test_a_page_of_an_allowed_origin_may_ask(
    stack: Stack, allowed: str, answer: str, path: str
) -> None:
    front = await stack.front(CORS_ALLOW_ORIGINS=allowed)
    async with front.session.options(path, headers=PREFLIGHT) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == answer
        assert "POST" in response.headers["Access-Control-Allow-Methods"].split(", ")
        assert "Access-Control-Allow-Credentials" not in response.headers
        assert response.headers["Vary"] == "Origin"


async def test_a_page_may_send_the_headers_of_its_client(stack: Stack) -> None:
    front = await stack.front(CORS_ALLOW_ORIGINS=PAGE)
    names = "arch lang os package-version retry-count runtime runtime-version timeout".split()
    asked = ",".join(["authorization", "content-type", *(f"x-stainless-{one}" for one in names)])
    headers = {**PREFLIGHT, "Access-Control-Request-Headers": asked}
    async with front.session.options("/v1/chat/completions", headers=headers) as response:
        assert response.headers["Access-Control-Allow-Headers"] == asked


async def test_what_is_no_list_of_headers_is_not_repeated(stack: Stack) -> None:
    front = await stack.front(CORS_ALLOW_ORIGINS=PAGE)
    for asked in ("", "é", "a b", "a,,b", "a:b"):
        headers = {**PREFLIGHT, "Access-Control-Request-Headers": asked}
        async with front.session.options("/v1/chat/completions", headers=headers) as response:
            assert response.status == 200
            assert "Access-Control-Allow-Headers" not in response.headers


OWN_MACHINE = {
    "http://localhost:5173": True,
    "https://localhost": True,
    "http://127.0.0.1:3000": True,
    "http://[::1]:3000": True,
    "http://localhost.evil.example": False,
    "http://evil.example/localhost": False,
    "null": False,
}


async def test_pages_of_the_own_machine_may_ask_while_developing(
    stack: Stack, tmp_path: Path
) -> None:
    dev = await stack.front()
    prod = await stack.front(**KeyFile(tmp_path / "keys.json", one={}).settings)
    for origin, allowed in OWN_MACHINE.items():
        headers = {**PREFLIGHT, "Origin": origin}
        for front, expected in ((dev, allowed), (prod, False)):
            async with front.session.options("/v1/requests", headers=headers) as response:
                assert response.status == (200 if expected else 405), origin
                told = response.headers.get("Access-Control-Allow-Origin")
                assert told == (origin if expected else None)


async def test_answers_errors_and_streams_may_be_read(stack: Stack) -> None:
    front = await stack.front(CORS_ALLOW_ORIGINS=PAGE)
    await stack.worker()
    origin = {"Origin": PAGE}
    channel_id = await front.submit(chat_request("a"))
    async with (
        front.get("/v1/models", headers=origin) as models,
        front.get("/v1/channels/none", headers=origin) as error,
        front.get(f"/v1/channels/{channel_id}/events", headers=origin) as events,
        front.post("/v1/chat/completions", chat_request("a", stream=True), headers=origin) as chat,
    ):
        assert (models.status, error.status, events.status, chat.status) == (200, 404, 200, 200)
        for response in (models, error, events, chat):
            assert response.headers["Access-Control-Allow-Origin"] == PAGE
            exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
            assert {"X-Request-Id", "Retry-After"} <= set(exposed)
        await events.read()
        await chat.read()


async def test_a_page_of_another_origin_is_told_nothing(stack: Stack) -> None:
    front = await stack.front(CORS_ALLOW_ORIGINS=PAGE)
    other = {**PREFLIGHT, "Origin": "https://evil.example"}
    async with front.session.options("/v1/requests", headers=other) as response:
        assert response.status == 405
        assert "Access-Control-Allow-Origin" not in response.headers
    async with front.get(f"/v1/models/{MODEL}", headers={"Origin": other["Origin"]}) as response:
        assert "Access-Control-Allow-Origin" not in response.headers
