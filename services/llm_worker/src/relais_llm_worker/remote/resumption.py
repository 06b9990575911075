"""Finds the token at which an interrupted answer can continue. Only vLLM reports the text of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from relais_common.jobs.errors import EngineRefused, NotResumable
from relais_common.remote.errors import Lost, Misplaced
from relais_common.remote.server import Server
from relais_llm_worker.engine import Emitted
from relais_llm_worker.remote.exchange import StreamingClient

_DETOKENIZE = "/detokenize"
_BROKEN = "\ufffd"
_LONGEST_CHARACTER = 4  # in bytes, and so in tokens
_COMPARED = 8


class Meaning:
    """The text of a model's tokens, as a server reports it."""

    def __init__(self, client: StreamingClient, server: Server, model: str) -> None:
        self._client = client
        self._server = server
        self._model = model

    async def whole(self, emitted: Emitted) -> int:
        """Return how many of the tokens end at a character boundary: nearly always all.

        The server generates the others again: if a prompt ends within a character, vLLM returns the whole prompt with
        the other half.
        """
        count = len(emitted.token_ids)
        first = max(0, count - _LONGEST_CHARACTER)
        for kept in range(count, first, -1):
            text = await self._text(emitted.token_ids[first:kept])
            # One that went out is no half of a character.
            if not text.endswith(_BROKEN) or emitted.text.endswith(_BROKEN):
                return kept
        return first

    async def held_back(self, emitted: Emitted, stops: Sequence[str]) -> str:
        """Return the text of tokens that was not sent because it may begin a stop string.

        It is the longest end of the text with which a stop string begins.

        Raises:
            NotResumable: the text before it differs from what was sent.
        """
        longest = max(map(len, stops))
        text = await self._text(emitted.token_ids[-(longest + _COMPARED + _LONGEST_CHARACTER) :])
        text = text.rstrip(_BROKEN)
        held = max(
            (
                length
                for stop in stops
                for length in range(len(stop))
                if text.endswith(stop[:length])
            ),
            default=0,
        )
        before = text[: len(text) - held][-_COMPARED:].lstrip()
        if not emitted.text.endswith(before):
            raise NotResumable("its tokens give another text here")
        return text[len(text) - held :]

    async def _text(self, token_ids: Sequence[int]) -> str:
        body = {"model": self._model, "tokens": list(token_ids)}
        try:
            answer = await self._client.call_for_object(self._server, _DETOKENIZE, body)
        except (Misplaced, EngineRefused):
            raise NotResumable("its server does not tell what its tokens mean") from None
        text = answer.get("prompt")
        if not isinstance(text, str):
            raise Lost("/detokenize gives no text")
        return text
