"""Builds an answer's text token by token: ends it at a stop string, and holds back what may become one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from relais_llm_worker.engine import Emitted


def exhausted(steps: Generator[None, None, bool]) -> bool:
    """Take all steps at once, and return what they come to."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return bool(end.value)


class HeldText:
    """The part of an answer's text that a client may see so far.

    The rules are vLLM's: the stop string that is completed first ends the answer and is not part of it, and stop
    strings have no effect within the first `min_tokens` tokens.

    Args:
        keep_stop: include the stop string in the answer.
    """

    def __init__(
        self, stops: Sequence[str], min_tokens: int = 0, *, keep_stop: bool = False
    ) -> None:
        self._stops = stops
        self._keep_stop = keep_stop
        self._min_tokens = min_tokens
        self._tokens = 0
        self._pending = ""

    def go_on(self, pending: str, tokens: int) -> None:
        """Restore the state of an interrupted engine: the number of tokens, and the text held back."""
        self._pending, self._tokens = pending, tokens

    def add(self, piece: str, tokens: int = 1) -> str | None:
        """Add the text of this many tokens. Returns the stop string that it completes, if any; then add no more."""
        self._tokens += tokens
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
        end, at, matched = min(matches, key=lambda match: match[0])
        self._pending = self._pending[: end if self._keep_stop else at]
        return matched

    def give(self, *, ended: bool) -> str:
        """Return the text that may be published and was not yet."""
        is_all = ended or not self._stops
        end = len(self._pending) - (0 if is_all else self._held_back())
        given, self._pending = self._pending[:end], self._pending[end:]
        return given

    def _held_back(self) -> int:
        """Return how many characters at the end may begin a stop string."""
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


class AnswerText(HeldText):
    """The text of an answer, decoded from token ids.

    Args:
        decode: returns the text that a token adds; empty while it only begins a character.
    """

    def __init__(
        self,
        decode: Callable[[int], str],
        stops: Sequence[str],
        min_tokens: int = 0,
        *,
        keep_stop: bool = False,
    ) -> None:
        super().__init__(stops, min_tokens, keep_stop=keep_stop)
        self._decode = decode

    def replay(self, emitted: Emitted) -> bool:
        """Restore the state of an interrupted engine. Returns False if the same tokens decode to another text here."""
        return exhausted(self.replaying(emitted))

    def replaying(self, emitted: Emitted) -> Generator[None, None, bool]:
        """Do the same in steps, each of which takes little."""
        for token_id in emitted.token_ids:
            self.feed(token_id)
            yield
        text, given = self._pending, emitted.text
        self._pending = text[len(given) :]
        return text.startswith(given)

    def feed(self, token_id: int) -> str | None:
        """Add a token, as `add` does."""
        return self.add(self._decode(token_id))
