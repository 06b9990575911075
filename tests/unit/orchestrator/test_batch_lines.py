"""Lines of a batch's input: numbered, bounded, and never more in memory than one of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Iterable

from relais_orchestrator.batches.lines import lines_of

PIECE = 255 << 10
MOST = 1 << 20


async def pieces_of(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def lines(*pieces: bytes, most: int = MOST) -> list[tuple[int, bytes | None]]:
    return [one async for one in lines_of(pieces_of(pieces), most)]


async def test_lines_are_numbered_however_they_are_cut() -> None:
    expected = [(1, b"a"), (3, b"bcd"), (4, b"e")]
    assert await lines(b"a\n\nbcd\ne") == expected
    assert await lines(*(bytes([one]) for one in b"a\n\nbcd\ne\n")) == expected


async def test_line_over_the_bound_is_told_and_the_next_is_read() -> None:
    assert await lines(b"abc", b"d\nef\n", b"ghij", most=3) == [(1, None), (2, b"ef"), (3, None)]


async def test_gigabyte_in_one_line_takes_no_memory() -> None:
    piece = b"x" * PIECE
    tracemalloc.start()
    try:
        found = [
            one async for one in lines_of(pieces_of(piece for _ in range((1 << 30) // PIECE)), MOST)
        ]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == [(1, None)]
    assert peak < 4 * MOST


async def test_ten_million_empty_lines_are_counted_only() -> None:
    count = 10_000_000
    pieces = (b"\n" * PIECE for _ in range(count // PIECE))
    last = b"\n" * (count % PIECE) + b"end"

    async def all_pieces() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
        yield last

    assert [one async for one in lines_of(all_pieces(), MOST)] == [(count + 1, b"end")]
