"""Packs commands for Redis in pieces, so that no turn of the event loop copies or writes a large one whole. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hiredis import pack_command

Argument = str | bytes | int | float

LARGE_BYTES = 64 << 10
"""Size over which bytes are not copied into a packed command: hiredis copies them twice, at 2 ms per MB."""

MESSAGE_BYTES = 256 << 10
"""How much of packed commands is joined and written at once."""


def pack(words: Sequence[Argument]) -> list[bytes]:
    """Return a command as it is sent: in one piece, or in several around its large bytes.

    Long texts are not cut out: answers are the longest, and the engine bounds them.

    Raises:
        UnicodeEncodeError: a text is not valid Unicode.
    """
    for word in words:  # a call of a function for each would double the cost
        if word.__class__ is bytes and len(word) > LARGE_BYTES:
            return _in_pieces(words)
    return [pack_command(tuple(words))]  # type: ignore[arg-type] # its stub allows for one word


def _in_pieces(words: Sequence[Argument]) -> list[bytes]:
    pieces = [b"*%d\r\n" % len(words)]
    for word in words:
        if isinstance(word, bytes):
            pieces += (b"$%d\r\n" % len(word), word, b"\r\n")
        else:
            pieces.append(pack_command((word,)).partition(b"\n")[2])
    return pieces


def messages(pieces: Sequence[bytes]) -> Iterator[bytes]:
    """Join small pieces and cut large ones into messages of about `MESSAGE_BYTES`."""
    if 0 < sum(map(len, pieces)) < MESSAGE_BYTES:  # as usual: a look at each piece costs more
        yield b"".join(pieces)
        return
    message: list[bytes] = []
    size = 0
    for piece in pieces:
        for part in (piece,) if len(piece) <= MESSAGE_BYTES else _cut(piece):
            message.append(part)
            size += len(part)
            if size >= MESSAGE_BYTES:
                yield b"".join(message)
                message, size = [], 0
    if message:
        yield b"".join(message)


def _cut(piece: bytes) -> Iterator[bytes]:
    return (piece[at : at + MESSAGE_BYTES] for at in range(0, len(piece), MESSAGE_BYTES))
