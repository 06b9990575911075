"""Bounds on what a server may send in response to one request."""

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
    """Bounds on one answer.

    Attributes:
        tokens: the maximum that was requested.
        candidates: likeliest tokens reported for each; None without log probabilities.
        prompt_bytes: of the request.
    """

    tokens: int
    candidates: int | None
    prompt_bytes: int

    @property
    def stream_bytes(self) -> int:
        """Return the bound on all chunks as sent. What servers add to a token takes some hundred bytes."""
        return MAX_EVENT_BYTES + self.tokens * (_TOKEN_BYTES + self._told() * _CANDIDATE_BYTES)

    @property
    def characters(self) -> int:
        """Return the bound on characters. A token has four on average; only a run of spaces has a hundred."""
        return _SPARE_CHARACTERS + self.tokens * _TOKEN_CHARACTERS * (1 + self._told())

    @property
    def prompt_tokens(self) -> int:
        """Return the bound on prompt tokens: each has at least one byte, except those of the chat template."""
        return self.prompt_bytes + _TEMPLATE_TOKENS

    def _told(self) -> int:
        return 0 if self.candidates is None else self.candidates + 1
