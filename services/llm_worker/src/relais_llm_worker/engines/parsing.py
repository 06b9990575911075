"""Runs parsers of answers where they hold up nobody else's: in the event loop while they are quick, else in a thread.

Most of vLLM's parsers read the whole answer again for each of its tokens, so that a client can have a long answer, or a
garbled one, that costs milliseconds a token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence

from relais_common.worker.turns import Turns
from relais_llm_worker.engine import Chunk
from relais_llm_worker.parsed_answer import ParsedAnswer, merged

QUICK_S = 0.001
"""A parser that took longer for the last tokens goes on in the thread: getting there costs a tenth of that."""

SHORT_TOKENS = 256
"""An answer up to this length is read as a whole where it is."""

SLICE_S = 0.01
"""How long one answer keeps the event loop, or the thread where it is restored, from the others."""


class Parsing:
    """One thread for all slow parsers, which take turns: a slow one delays its own answer."""

    def __init__(self) -> None:
        self._turns = Turns("parse")

    def of(self, request_id: str, parsed: ParsedAnswer) -> AnswerParsing:
        return AnswerParsing(self._turns, request_id, parsed)

    async def restored(self, request_id: str, steps: Generator[None, None, bool]) -> bool:
        """Take all steps of a replay, and return what they come to."""

        def advance() -> bool | None:
            end_s = time.thread_time() + SLICE_S
            while time.thread_time() < end_s:
                try:
                    next(steps)
                except StopIteration as end:
                    return bool(end.value)
            return None

        while (result := await self._turns.run(request_id, advance)) is None:
            pass
        return result

    def close(self) -> None:
        """Wait for the thread."""
        self._turns.close()


class AnswerParsing:
    """The parser of one answer."""

    def __init__(self, turns: Turns, request_id: str, parsed: ParsedAnswer) -> None:
        self._turns = turns
        self._request_id = request_id
        self._parsed = parsed
        self._took_s = 0.0

    async def tell_apart(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """As `ParsedAnswer.tell_apart`, one after the other, and return them merged."""
        told, spent_s = [], 0.0
        for chunk in chunks:
            if spent_s > SLICE_S:
                await asyncio.sleep(0)
                spent_s = 0.0
            told.append(await self._tell_apart(chunk))
            spent_s += self._took_s
        return merged(told)

    async def _tell_apart(self, chunk: Chunk) -> Chunk:
        is_whole_read = chunk.finish_reason is not None and self._parsed.length > SHORT_TOKENS
        if self._took_s <= QUICK_S and not is_whole_read:
            # Its thread's own clock costs more. Who waits for a core meanwhile goes through the other thread once.
            return self._timed(chunk, time.perf_counter)
        return await self._turns.run(self._request_id, lambda: self._timed(chunk, time.thread_time))

    def _timed(self, chunk: Chunk, clock: Callable[[], float]) -> Chunk:
        began_s = clock()
        told = self._parsed.tell_apart(chunk)
        self._took_s = clock() - began_s
        return told
