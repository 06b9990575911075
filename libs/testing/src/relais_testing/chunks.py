"""Answers, put together from their chunks."""

from __future__ import annotations

from collections.abc import Sequence

from relais_common.jobs.chat import joined
from relais_llm_worker.engine import Chunk, Emitted


def parts(chunks: Sequence[Chunk]) -> tuple[str, str, list[tuple[str, str]]]:
    """Return content, reasoning, and calls without their ids."""
    told = emitted(chunks)
    calls = [(one.function.name, one.function.arguments) for one in told.tool_calls]
    return told.text, told.reasoning, calls


def emitted(chunks: Sequence[Chunk]) -> Emitted:
    """Return the published part of an answer that was interrupted after these chunks."""
    return Emitted(
        tuple(one for chunk in chunks for one in chunk.token_ids),
        "".join(chunk.text for chunk in chunks),
        "".join(chunk.reasoning for chunk in chunks),
        joined(delta for chunk in chunks for delta in chunk.tool_calls),
    )
