"""Names of what a chat begins with, by which requests that share it find the worker that had it last."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from relais_common.jobs.chat import ImagePart, Message

LEAST_CHARACTERS = 256
"""Of a beginning: a shorter one is not worth a name. vLLM keeps blocks of 16 tokens, some 64 characters."""
MOST_LAST = 7
"""Messages that may have come since the turn before: its answer, results of tools, a question."""
MOST_MESSAGES = 1000
"""Of more, the first alone has a name."""
_READ = 4096
"""Characters of a text that count, beside its length. Names are hints: reading megabytes would not make better ones."""


def beginnings_of(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Return 16 hexadecimal digits for each beginning, the longest first: equal where the beginnings are.

    Named are the first message with the tools, where a system prompt is shared, and the conversation up to each of its
    last messages, so that its next turn finds this one. At most `MOST_LAST` + 1 names.
    """
    # A template writes the tools first; some 256 characters each.
    digest, length = blake2b(digest_size=8), 256 * len(tools)
    for tool in tools:
        digest.update(_text(str(tool.get("function", {}).get("name"))))
    names: list[str] = []
    last = len(messages) - MOST_LAST
    for at, message in enumerate(messages if len(messages) <= MOST_MESSAGES else messages[:1]):
        for text in _texts(message):
            digest.update(_text(text))
            length += len(text)
        if length >= LEAST_CHARACTERS and (at == 0 or at >= last):
            names.append(digest.hexdigest())
    return tuple(reversed(names))


def conversation_of(messages: Sequence[Message]) -> str:
    """Return a name for all turns of a conversation: of what goes up to the end of its first message of a user."""
    digest = blake2b(digest_size=8)
    for message in messages[:MOST_MESSAGES]:
        for text in _texts(message):
            digest.update(_text(text))
        if message.role == "user":
            break
    return digest.hexdigest()


def _texts(message: Message) -> list[str]:
    texts = [message.role, message.text, message.reasoning or ""]
    if isinstance(message.content, tuple):
        texts += [one.image_url.url for one in message.content if isinstance(one, ImagePart)]
    for call in message.tool_calls:
        texts += (call.function.name, call.function.arguments)
    return texts


def _text(text: str) -> bytes:
    # Images of one kind begin alike, and differ to their end.
    read = text if len(text) <= _READ else text[: _READ // 2] + text[-_READ // 2 :]
    return f"{len(text)} {read}\n".encode(errors="surrogatepass")
