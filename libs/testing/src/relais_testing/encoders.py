"""Encoders that a test can hold, count or break."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from relais_common.jobs.job import InputType
from relais_embedding_worker.encoder import Encoder, Input, Tokens, Vectors
from relais_embedding_worker.encoder_deterministic import DeterministicEncoder


def whole(
    encoder: Encoder, inputs: Sequence[Input], input_type: InputType | None = None
) -> list[Tokens]:
    """Tokens of the inputs, each of which is looked at to its end."""
    reach = max((len(one) for one in inputs), default=0)
    return [one for one in encoder.tokenize(inputs, input_type, reach) if one is not None]


class WatchedEncoder(DeterministicEncoder):
    """Deterministic.

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
            self.tokenizer_gate.wait(30)
        return super().tokenize(inputs, input_type, reach)

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        self.batches.append([len(tokens.ids) for tokens in batch])
        self.gate.wait(30)
        if any(self.poison.intersection(tokens.ids) for tokens in batch):
            raise RuntimeError("poison")
        rows = super().encode(batch)
        return rows / 0.0 if self.broken else rows
