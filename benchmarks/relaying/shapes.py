"""OpenAI's chunks as the references write them; Relais has its own code for the same ones."""

from __future__ import annotations

from typing import Any

Chunk = dict[str, Any]


def chunk(
    response_id: str, model: str, delta: dict[str, str], finish_reason: str | None = None
) -> Chunk:
    """One `chat.completion.chunk`."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {
        "id": response_id,
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": model,
        "choices": [choice],
    }


HEAD = {"role": "assistant", "content": ""}
"""The delta before any text."""
