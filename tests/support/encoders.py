"""Encoders that a test can hold, count or break."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from relais_embedding_worker.encoder import Tokens, Vectors
from relais_embedding_worker.encoder_deterministic import DeterministicEncoder


class WatchedEncoder(DeterministicEncoder):
    """Deterministic.

    Attributes:
        gate: cleared, batches stay in the encoder.
        batches: lengths of the inputs of each batch so far.
        poison: ids whose batch fails.
        broken: gives vectors that are not finite.
    """

    def __init__(self, *, dimensions: int = 8, max_tokens: int = 64) -> None:
        super().__init__(dimensions=dimensions, max_tokens=max_tokens)
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []
        self.poison: frozenset[int] = frozenset()
        self.broken = False

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        self.batches.append([len(tokens.ids) for tokens in batch])
        self.gate.wait(30)
        if any(self.poison.intersection(tokens.ids) for tokens in batch):
            raise RuntimeError("poison")
        rows = super().encode(batch)
        return rows / 0.0 if self.broken else rows
