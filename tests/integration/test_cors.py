"""What a page of another origin may do: nothing, unless its origin is allowed."""

from __future__ import annotations

import pytest

from relais_testing.builders import MODEL
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


@pytest.mark.parametrize("path", ["/v1/requests", "/v1/chat/completions"])
@pytest.mark.parametrize("allowed", ["*", f"https://other.example, {PAGE}"])
async def test_a_page_of_an_allowed_origin_may_ask(stack: Stack, allowed: str, path: str) -> None:
    front = await stack.front(CORS_ALLOW_ORIGINS=allowed)
    async with front.session.options(path, headers=PREFLIGHT) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert response.headers["Access-Control-Allow-Methods"] == "POST"
        assert "Access-Control-Allow-Credentials" not in response.headers


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
            exposed = response.headers["Access-Control-Expose-Headers"].split(",")
            assert {"X-Request-Id", "Retry-After"} <= set(exposed)
        await events.read()
        await chat.read()


async def test_a_page_of_another_origin_is_told_nothing(stack: Stack) -> None:
    front = await stack.front(CORS_ALLOW_ORIGINS=PAGE)
    other = {**PREFLIGHT, "Origin": "https://evil.example"}
    async with front.session.options("/v1/requests", headers=other) as response:
        assert response.status == 403
        assert "Access-Control-Allow-Origin" not in response.headers
    async with front.get(f"/v1/models/{MODEL}", headers={"Origin": other["Origin"]}) as response:
        assert "Access-Control-Allow-Origin" not in response.headers
