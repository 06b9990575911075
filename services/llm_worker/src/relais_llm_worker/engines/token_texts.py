"""The text of single tokens, as log probabilities tell them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

_BROKEN = "\ufffd"
_LONGEST_CHARACTER = 4  # in bytes, and so in tokens


class TokenTexts:
    """Tokens of one answer, each by itself. As vLLM tells them: the token that ends a character has it whole.

    Args:
        decode: the text of these tokens alone.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._begun: tuple[int, ...] = ()

    def text(self, token_id: int) -> str:
        """What this token would add; empty where it only begins a character."""
        text = self._decode((token_id,))
        if _BROKEN not in text:
            return text
        text = self._decode((*self._begun, token_id))
        return "" if text.endswith(_BROKEN) else text

    def advance(self, token_ids: Iterable[int]) -> None:
        """Let these have been chosen."""
        for token_id in token_ids:
            begins = self._decode((*self._begun, token_id)).endswith(_BROKEN)
            # More than a character has bytes is no character.
            kept = (*self._begun, token_id)[-_LONGEST_CHARACTER:]
            self._begun = kept if begins else ()
