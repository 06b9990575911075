"""Channel ids, with which clients find their requests.

A channel id is `<tag>.<random>`. The tag is the model's name with every character outside
`A-Z a-z 0-9 _ -` and `.` written as `~hh` (its UTF-8 bytes in hexadecimal), so that it is safe in a URL and inside
the braces of a Redis Cluster hash tag. Any orchestrator can therefore derive a channel's keys, and their
slot, from the id alone.

A model's requests may be spread over several queues, its shards. Shard 0 has the model's name. The name of any other
is the model's name, a line break, which no model's name has, and the shard's number; its tag is
`<tag of the model>:<number>`.
"""

from __future__ import annotations

import re
import secrets

MAX_MODEL_NAME_BYTES = 160
MOST_SHARDS = 32
MAX_BATCH_LINES = 999_999
BATCH_PREFIX = "batch_"
BATCH_RANDOM_BYTES = 12
_RANDOM_BYTES = 16
_BETWEEN = "\n"
_LINE_DIGITS = 6
_LITERAL = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_TAG = re.compile(r"(?:[A-Za-z0-9._-]|~[0-9a-f]{2})+")
_CHANNEL = re.compile(
    r"(?P<tag>(?:[A-Za-z0-9._-]|~[0-9a-f]{2}){1,480}(?::[1-9][0-9]?)?)\.[A-Za-z0-9_-]{22}"
)


def model_tag(model: str) -> str:
    """Encode a model's name for URLs and Redis hash tags. `tag_model` reverses it."""
    raw = model.encode()
    if not raw or len(raw) > MAX_MODEL_NAME_BYTES:
        raise ValueError(f"a model name has 1 to {MAX_MODEL_NAME_BYTES} bytes, not {len(raw)}")
    if _BETWEEN in model:
        raise ValueError("a model name has no line breaks")
    return "".join(chr(byte) if byte in _LITERAL else f"~{byte:02x}" for byte in raw)


def tag_model(tag: str) -> str:
    """Decode a tag from `model_tag` to the model's name.

    Raises:
        ValueError: the text is not a tag.
    """
    if not _TAG.fullmatch(tag):
        raise ValueError("not a model tag")
    model = re.sub(
        rb"~([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), tag.encode()
    ).decode()
    if model_tag(model) != tag:
        raise ValueError("not a model tag")  # another spelling would name other keys
    return model


def queue_of(model: str, shard: int) -> str:
    """Return the name of a model's queue."""
    return f"{model}{_BETWEEN}{shard}" if shard else model


def queue_model(queue: str) -> str:
    """Return the model of a queue."""
    return queue.partition(_BETWEEN)[0]


def queue_tag(queue: str) -> str:
    """Return the tag of a queue. Raises ValueError as `model_tag` does."""
    model, _, shard = queue.partition(_BETWEEN)
    return f"{model_tag(model)}:{shard}" if shard else model_tag(model)


def new_channel_id(queue: str) -> str:
    """Return a new id for a request in this queue. It has 128 random bits, so it cannot be guessed."""
    return f"{queue_tag(queue)}.{secrets.token_urlsafe(_RANDOM_BYTES)}"


def line_channel_id(queue: str, batch_id: str, line: int) -> str:
    """Return the id of a batch's line: always the same, so that a line which is fed again is the job that is there."""
    return f"{queue_tag(queue)}.{batch_id.removeprefix(BATCH_PREFIX)}{line:0{_LINE_DIGITS}d}"


def channel_batch(channel_id: str) -> str | None:
    """Return the batch of a channel that `line_channel_id` has made; None for others, such as a replayed line's."""
    own = channel_id.rpartition(".")[2]
    return BATCH_PREFIX + own[:-_LINE_DIGITS] if own[-_LINE_DIGITS:].isdecimal() else None


def channel_tag(channel_id: str) -> str:
    """Return the tag of a channel id.

    Raises:
        ValueError: the text does not have the form of a channel id.
    """
    found = _CHANNEL.fullmatch(channel_id)
    if found is None:
        raise ValueError("not a channel id")
    return found["tag"]


def channel_queue(channel_id: str) -> str:
    """Return the queue of a channel. Raises ValueError as `channel_tag` does."""
    tag, _, shard = channel_tag(channel_id).partition(":")
    return queue_of(tag_model(tag), int(shard or 0))


def channel_shard(channel_id: str) -> int:
    """Return the shard of a channel. Raises ValueError as `channel_tag` does."""
    return int(channel_tag(channel_id).partition(":")[2] or 0)


def channel_model(channel_id: str) -> str:
    """Return the model of a channel. Raises ValueError as `channel_tag` does."""
    return queue_model(channel_queue(channel_id))
