"""Channel ids: what a client holds to find its request again.

A channel id is `<tag>.<random>`. The tag is the model's name with every character outside
`A-Z a-z 0-9 _ -` and `.` written as `~hh` (its UTF-8 bytes in hexadecimal), so that it is safe in a URL and inside
the braces of a Redis Cluster hash tag. Any orchestrator can so tell from the id alone which keys, in
which slot, belong to a channel.
"""

from __future__ import annotations

import re
import secrets

MAX_MODEL_NAME_BYTES = 160
_RANDOM_BYTES = 16
_LITERAL = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_TAG = re.compile(r"(?:[A-Za-z0-9._-]|~[0-9a-f]{2})+")
_CHANNEL = re.compile(r"(?P<tag>(?:[A-Za-z0-9._-]|~[0-9a-f]{2}){1,480})\.[A-Za-z0-9_-]{22}")


def model_tag(model: str) -> str:
    """The model's name, made safe for a URL and a Redis hash tag. Reversed by `tag_model`."""
    raw = model.encode()
    if not raw or len(raw) > MAX_MODEL_NAME_BYTES:
        raise ValueError(f"a model name has 1 to {MAX_MODEL_NAME_BYTES} bytes, not {len(raw)}")
    return "".join(chr(byte) if byte in _LITERAL else f"~{byte:02x}" for byte in raw)


def tag_model(tag: str) -> str:
    """The model's name that `model_tag` made this tag from.

    Raises:
        ValueError: the text is no tag.
    """
    if not _TAG.fullmatch(tag):
        raise ValueError("not a model tag")
    model = re.sub(
        rb"~([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), tag.encode()
    ).decode()
    if model_tag(model) != tag:
        raise ValueError("not a model tag")  # another spelling would name other keys
    return model


def new_channel_id(model: str) -> str:
    """A fresh id for a request to this model; 128 random bits, so it cannot be guessed."""
    return f"{model_tag(model)}.{secrets.token_urlsafe(_RANDOM_BYTES)}"


def channel_tag(channel_id: str) -> str:
    """The tag inside a channel id.

    Raises:
        ValueError: the text has not the form of a channel id.
    """
    found = _CHANNEL.fullmatch(channel_id)
    if found is None:
        raise ValueError("not a channel id")
    return found["tag"]


def channel_model(channel_id: str) -> str:
    """The model a channel belongs to. Raises ValueError as `channel_tag` does."""
    return tag_model(channel_tag(channel_id))
