"""The text of an answer, token by token: it ends at a stop string, and holds back what may become one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relais_llm_worker.engine import Emitted


class AnswerText:
    """What a client may see of the tokens so far.

    The rules are vLLM's own: the stop string that is complete first ends the answer and is no part of it, and none is
    looked for within the first `min_tokens` tokens.

    Args:
        decode: text that a token adds; empty while it only begins a character.
    """

    def __init__(
        self, decode: Callable[[int], str], stops: Sequence[str], min_tokens: int = 0
    ) -> None:
        self._decode = decode
        self._stops = stops
        self._min_tokens = min_tokens
        self._tokens = 0
        self._pending = ""

    def replay(self, emitted: Emitted) -> bool:
        """Come to where an earlier engine was cut off. False where the same tokens give another text here."""
        for token_id in emitted.token_ids:
            self.feed(token_id)
        given, self._pending = (
            self._pending[: len(emitted.text)],
            self._pending[len(emitted.text) :],
        )
        return given == emitted.text

    def feed(self, token_id: int) -> str | None:
        """Take in a token. The stop string that it completes, if any: feed no more then."""
        piece = self._decode(token_id)
        self._tokens += 1
        before, self._pending = len(self._pending), self._pending + piece
        if not piece or self._tokens <= self._min_tokens:
            return None
        matches = []
        for stop in self._stops:
            at = self._pending.find(stop, max(0, before + 1 - len(stop)))
            if at >= 0:
                matches.append((at + len(stop), at, stop))
        if not matches:
            return None
        _, at, matched = min(matches, key=lambda match: match[0])
        self._pending = self._pending[:at]
        return matched

    def give(self, *, ended: bool) -> str:
        """The text that may go out now, and has not yet."""
        end = len(self._pending) if ended else len(self._pending) - self._held_back()
        given, self._pending = self._pending[:end], self._pending[end:]
        return given

    def _held_back(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        text = self._pending
        return max(
            (
                length
                for stop in self._stops
                for length in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:length])
            ),
            default=0,
        )
