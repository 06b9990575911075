"""Encoders that a test can hold, count or break."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from relais_common.jobs.errors import EngineRefused
from relais_common.jobs.job import InputType
from relais_embedding_worker.encoder import Encoder, Input, Tokens, Vectors
from relais_embedding_worker.encoder_deterministic import DeterministicEncoder
from relais_testing.waiting import LIVENESS_S


def whole(
    encoder: Encoder, inputs: Sequence[Input], input_type: InputType | None = None
) -> list[Tokens]:
    """Return the tokens of whole inputs."""
    reach = max((len(one) for one in inputs), default=0)
    return [one for one in encoder.tokenize(inputs, input_type, reach) if one is not None]


class WatchedEncoder(DeterministicEncoder):
    """A deterministic encoder that a test can hold, count and break.

    Attributes:
        gate: cleared, batches stay in the encoder.
        batches: lengths of the inputs of each batch so far.
        poison: ids whose batch fails.
        broken: gives vectors that are not finite.
        slices: of each call of the tokenizer so far, the characters that it might look at.
        tokenizer_gate: cleared, slices that are longer than `held_from` characters stay in the tokenizer.
    """

    def __init__(self, *, dimensions: int = 8, max_tokens: int = 64) -> None:
        super().__init__(dimensions=dimensions, max_tokens=max_tokens)
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []
        self.poison: frozenset[int] = frozenset()
        self.broken = False
        self.slices: list[int] = []
        self.tokenizer_gate = threading.Event()
        self.tokenizer_gate.set()
        self.held_from = 0

    def tokenize(
        self, inputs: Sequence[Input], input_type: InputType | None, reach: int
    ) -> list[Tokens | None]:
        self.slices.append(sum(min(len(one), reach) for one in inputs))
        if self.slices[-1] > self.held_from:
            self.tokenizer_gate.wait(LIVENESS_S)
        return super().tokenize(inputs, input_type, reach)

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        self.batches.append([len(tokens.ids) for tokens in batch])
        self.gate.wait(LIVENESS_S)
        if any(self.poison.intersection(tokens.ids) for tokens in batch):
            raise RuntimeError("poison")
        rows = super().encode(batch)
        return rows / 0.0 if self.broken else rows


class WatchedClassifier(WatchedEncoder):
    """A deterministic classifier: a class has the share of the text's tokens that fall to it."""

    LABELS = ("praise", "complaint", "question")

    def __init__(self, *, max_tokens: int = 64) -> None:
        super().__init__(max_tokens=max_tokens)
        self.info = replace(
            self.info, dimensions=len(self.LABELS), normalized=False, labels=self.LABELS
        )

    def complete(self, text: Tokens, max_tokens: int, *, special_tokens: bool) -> Tokens:
        ids = text.ids if special_tokens else text.ids[1:]
        if max_tokens <= special_tokens:
            raise EngineRefused("too few", param="truncate_prompt_tokens")
        if not ids:
            raise EngineRefused("nothing is left", param="input")
        return Tokens(ids[:max_tokens], truncated=text.truncated or len(ids) > max_tokens)

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        failing = super().encode(batch)[:, :1] * 0.0
        classes = range(len(self.LABELS))
        shares = [
            [sum(one % len(classes) == each for one in tokens.ids) for each in classes]
            for tokens in batch
        ]
        rows: Vectors = np.asarray(shares, np.float32)
        rows /= rows.sum(axis=1, keepdims=True)
        rows += failing
        return rows


class WatchedReranker(WatchedEncoder):
    """A deterministic reranker: the score is the share of the query's words in the document."""

    def __init__(self, *, max_tokens: int = 64) -> None:
        super().__init__(max_tokens=max_tokens)
        self.info = replace(self.info, dimensions=1, normalized=False)

    def tokenize(
        self, inputs: Sequence[Input], input_type: InputType | None, reach: int
    ) -> list[Tokens | None]:
        return super().tokenize(inputs, None, reach)

    def pair(self, query: Tokens, document: Tokens) -> Tokens:
        ids = (*query.ids, *document.ids)
        limit = self.info.max_tokens
        return Tokens(
            ids[:limit],
            truncated=query.truncated or document.truncated or len(ids) > limit,
            second_at=len(query.ids),
        )

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        failing = super().encode(batch)[:, :1] * 0.0
        shares = [_share(one.ids[1 : one.second_at], one.ids[one.second_at :]) for one in batch]
        return failing + np.asarray(shares, np.float32)[:, None]


def _share(query: Sequence[int], document: Sequence[int]) -> float:
    return len({*query} & {*document}) / max(1, len({*query}))
