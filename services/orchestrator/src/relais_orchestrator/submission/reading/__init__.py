"""Turns bodies into drafts: small ones in this process, large ones in a separate one.

No parser releases the GIL, so a thread would not free the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum, auto
from typing import TypeVar

from pydantic import BaseModel

from relais_orchestrator.api.embeddings.schemas import (
    ClassifyRequest,
    CohereRerankRequest,
    EmbeddingRequest,
    RerankRequest,
    ScoreRequest,
)
from relais_orchestrator.api.messages.schemas import CountTokensRequest, MessagesRequest
from relais_orchestrator.api.native.schemas import SubmitRequest
from relais_orchestrator.api.openai.schemas import ChatCompletionRequest, CompletionRequest
from relais_orchestrator.api.parsing import parse_body, parse_leniently
from relais_orchestrator.api.responses.schemas import InputTokensRequest, ResponsesRequest
from relais_orchestrator.api.tokens.schemas import DetokenizeRequest, TokenizeRequest
from relais_orchestrator.http import ignored_fields
from relais_orchestrator.submission import drafts, responses
from relais_orchestrator.submission.drafts import Asked

_Schema = TypeVar("_Schema", bound=BaseModel)


class Reading(IntEnum):
    """The route that a body was sent to."""

    # New ones go last: after an upgrade in place, an older orchestrator starts the newer program, and sends it numbers.
    NATIVE = auto()
    CHAT = auto()
    COMPLETION = auto()
    EMBEDDINGS = auto()
    RERANK = auto()
    SCORE = auto()
    COHERE_RERANK = auto()
    TOKENIZE = auto()
    DETOKENIZE = auto()
    MESSAGES = auto()
    COUNT_TOKENS = auto()
    RESPONSES = auto()
    RESPONSES_INPUT_TOKENS = auto()
    CLASSIFY = auto()


def _reads(
    schema: type[_Schema], draft_of: Callable[[_Schema], Asked]
) -> Callable[[bytes, bool], Asked]:
    def read(body: bytes, ignore_unknown: bool) -> Asked:
        if not ignore_unknown:
            return draft_of(parse_body(schema, body))
        wanted, ignored = parse_leniently(schema, body)
        return replace(draft_of(wanted), ignored=ignored_fields.shown(ignored))

    return read


_HOW = {
    Reading.NATIVE: _reads(SubmitRequest, drafts.native),
    Reading.CHAT: _reads(ChatCompletionRequest, drafts.chat),
    Reading.COMPLETION: _reads(CompletionRequest, drafts.completion),
    Reading.EMBEDDINGS: _reads(EmbeddingRequest, drafts.embeddings),
    Reading.RERANK: _reads(RerankRequest, drafts.rerank),
    Reading.SCORE: _reads(ScoreRequest, drafts.score),
    Reading.COHERE_RERANK: _reads(CohereRerankRequest, drafts.rerank),
    Reading.CLASSIFY: _reads(ClassifyRequest, drafts.classify),
    Reading.TOKENIZE: _reads(TokenizeRequest, drafts.tokenize),
    Reading.DETOKENIZE: _reads(DetokenizeRequest, drafts.detokenize),
    Reading.MESSAGES: _reads(MessagesRequest, drafts.messages),
    Reading.COUNT_TOKENS: _reads(CountTokensRequest, drafts.count_tokens),
    Reading.RESPONSES: _reads(ResponsesRequest, responses.response),
    Reading.RESPONSES_INPUT_TOKENS: _reads(InputTokensRequest, responses.input_tokens),
}


def read(route: Reading, body: bytes, *, ignore_unknown: bool = False) -> Asked:
    """Return what a body asks for. Raises RelaisError if it is refused.

    Args:
        ignore_unknown: fields, instead of refusing them.
    """
    return _HOW[route](body, ignore_unknown)
