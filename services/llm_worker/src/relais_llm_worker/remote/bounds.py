"""How much a server may send in answer to one request."""

from __future__ import annotations

from dataclasses import dataclass

from relais_llm_worker.remote.sse import MAX_EVENT_BYTES

_TOKEN_CHARACTERS = 128
_TOKEN_BYTES = 4096
_CANDIDATE_BYTES = 512
_SPARE_CHARACTERS = 4096
_TEMPLATE_TOKENS = 32_768


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an answer may hold.

    Attributes:
        tokens: the most it was asked for.
        candidates: likeliest tokens told beside each; None where none are told.
        prompt_bytes: of the request.
    """

    tokens: int
    candidates: int | None
    prompt_bytes: int

    @property
    def stream_bytes(self) -> int:
        """Of all chunks together, as they are sent. What servers say beside a token takes some hundred bytes."""
        return MAX_EVENT_BYTES + self.tokens * (_TOKEN_BYTES + self._told() * _CANDIDATE_BYTES)

    @property
    def characters(self) -> int:
        """Of text and of what is told beside it. A token has four on average; only a run of spaces has a hundred."""
        return _SPARE_CHARACTERS + self.tokens * _TOKEN_CHARACTERS * (1 + self._told())

    @property
    def prompt_tokens(self) -> int:
        """A token has at least one byte, but for those of the chat template."""
        return self.prompt_bytes + _TEMPLATE_TOKENS

    def _told(self) -> int:
        return 0 if self.candidates is None else self.candidates + 1
