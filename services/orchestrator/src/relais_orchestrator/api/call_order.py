"""Puts the parts of interleaved tool calls into an order. Pure.

Chats number the parts of calls, so that a server may send those of several calls in turns. The blocks and items of
other APIs follow each other, and none that was closed goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import orjson

from relais_common.jobs.events import Token

_WORDS = -1
"""Text and reasoning, among the numbers of calls."""


class CallOrder:
    """Holds back what comes within a call until that call's arguments are whole, or the answer is."""

    __slots__ = ("_arguments", "_ended", "_open", "_waiting")

    def __init__(self) -> None:
        self._open = _WORDS
        self._arguments: list[
            str
        ] = []  # of the open call; no white space on its own, which may follow the end
        self._ended: set[int] = set()
        self._waiting: dict[int, list[Token]] = {}  # only while the open call is not whole

    def of(self, token: Token) -> Iterator[Token]:
        """Yield what can be told now: tokens of words, or of one part of one call."""
        if not token.tool_calls:
            if token.says_something:
                yield from self._piece(_WORDS, token)
            else:
                yield token
            return
        if token.text or token.reasoning:
            yield from self._piece(_WORDS, replace(token, logprobs=None, tool_calls=()))
        for delta in token.tool_calls:
            part = replace(token, text="", reasoning="", logprobs=None, tool_calls=(delta,))
            yield from self._piece(delta.index, part)

    def rest(self) -> Iterator[Token]:
        """Yield what waits still, now that the answer has ended."""
        waiting, self._waiting = self._waiting, {}
        for tokens in waiting.values():
            yield from tokens

    def _piece(self, key: int, token: Token) -> Iterator[Token]:
        if key in self._ended:
            return  # what follows whole arguments, white space
        if key != self._open:
            if self._waiting or not self._is_whole():
                self._waiting.setdefault(key, []).append(token)
                return
            self._begin(key)
        yield self._told(token)
        while self._waiting and self._is_whole():
            key = next(iter(self._waiting))
            self._begin(key)
            for waiting in self._waiting.pop(key):
                yield self._told(waiting)

    def _begin(self, key: int) -> None:
        if self._open != _WORDS:
            self._ended.add(self._open)
        self._open = key
        self._arguments.clear()

    def _told(self, token: Token) -> Token:
        parts = (delta.function.arguments or "" for delta in token.tool_calls)
        self._arguments += [part for part in parts if part.strip()]
        return token

    def _is_whole(self) -> bool:
        if self._open == _WORDS:
            return True
        # Most parts cannot be the last, and need no look at all of them.
        if not self._arguments or not self._arguments[-1].rstrip().endswith("}"):
            return False
        try:
            orjson.loads("".join(self._arguments))
        except orjson.JSONDecodeError:
            return False
        return True
