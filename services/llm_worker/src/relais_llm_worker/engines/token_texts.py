"""Texts of single tokens, for log probabilities. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

_BROKEN = "\ufffd"
_LONGEST_CHARACTER = 4  # in bytes, and so in tokens


def id_as_text(token_ids: Sequence[int]) -> str:
    """Return the last of these ids as vLLM writes it in place of its text."""
    return f"token_id:{token_ids[-1]}"


class TokenTexts:
    """Texts of one answer's single tokens, as in vLLM: the token that ends a character has it whole.

    Args:
        decode: returns the text of these tokens alone.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._begun: tuple[int, ...] = ()

    def text(self, token_id: int) -> str:
        """Return what this token would add; empty if it only begins a character."""
        text = self._decode((token_id,))
        if _BROKEN not in text:
            return text
        text = self._decode((*self._begun, token_id))
        return "" if text.endswith(_BROKEN) else text

    def advance(self, token_ids: Iterable[int]) -> None:
        """Append these chosen tokens."""
        for token_id in token_ids:
            begins = self._decode((*self._begun, token_id)).endswith(_BROKEN)
            # More bytes than a character can have are not a character.
            kept = (*self._begun, token_id)[-_LONGEST_CHARACTER:]
            self._begun = kept if begins else ()
