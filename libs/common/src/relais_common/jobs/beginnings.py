"""Names of what a chat begins with, by which requests that share it find the worker that had it last."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from relais_common.jobs.chat import ChatOptions, Message

LEAST_BYTES = 256
"""Of a beginning: a shorter one is not worth a name. vLLM keeps blocks of 16 tokens, some 64 characters."""
MOST_LAST = 7
"""Messages that may have come since the turn before: its answer, results of tools, a question."""


def beginnings_of(
    messages: Sequence[Message], options: ChatOptions, template: dict[str, Any] | None
) -> tuple[str, ...]:
    """Return 16 hexadecimal digits for each beginning, the longest first: equal where the beginnings are.

    Named are the first message with the tools, where a system prompt is shared, and the conversation up to each of its
    last messages, so that its next turn finds this one. At most `MOST_LAST` + 1 names.
    """
    digest = blake2b(msgspec.json.encode((options.tools, template)), digest_size=8)
    names: list[str] = []
    length = 0
    last = max(1, len(messages) - MOST_LAST)
    # Whole stretches at a time, since one name is all that thousands of messages get.
    for start, end in ((0, 1), (1, last), *((at, at + 1) for at in range(last, len(messages)))):
        stretch = msgspec.json.encode(messages[start:end])[1:-1] + b","
        if start == end:
            continue
        digest.update(stretch)
        length += len(stretch)
        if length >= LEAST_BYTES and (end == 1 or end > last):
            names.append(digest.hexdigest())
    return tuple(reversed(names))
