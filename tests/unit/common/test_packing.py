"""Commands are packed as hiredis packs them, without copies of what is large."""

from __future__ import annotations

import pytest
from hiredis import pack_command

from relais_common.jobs.job import Priority
from relais_common.queue.client.packing import LARGE_BYTES, MESSAGE_BYTES, Argument, messages, pack

LARGE = b"\r\n$5 " * LARGE_BYTES
WORDS: tuple[Argument, ...] = ("EVALSHA", 1, 0.25, 1e300, "é", b"", "", b"\0", Priority.HIGH)


@pytest.mark.parametrize("words", [WORDS, (*WORDS, LARGE), (LARGE, *WORDS, LARGE, 7, LARGE)])
def test_pieces_make_up_the_command(words: tuple[Argument, ...]) -> None:
    expected = pack_command(words)  # type: ignore[arg-type] # its stub allows for one word
    assert b"".join(pack(words)) == expected
    assert b"".join(messages(pack(words))) == expected


def test_large_bytes_are_not_copied() -> None:
    assert any(piece is LARGE for piece in pack(("SET", "key", LARGE)))


def test_messages_are_bounded_and_few() -> None:
    sizes = [len(one) for one in messages([LARGE, *[b"small"] * 100_000])]
    assert max(sizes) < 2 * MESSAGE_BYTES
    assert min(sizes[:-1]) >= MESSAGE_BYTES
