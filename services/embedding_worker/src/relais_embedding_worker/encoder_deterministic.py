"""An encoder that hashes words, for tests and benchmarks of everything around an encoder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import numpy as np

from relais_common.jobs.errors import EngineRefused
from relais_common.jobs.job import InputType
from relais_embedding_worker.encoder import EncoderInfo, Input, Tokens, Vectors

VOCABULARY = 30_000
_PROMPTS = {InputType.QUERY: "query:", InputType.PASSAGE: "passage:"}


class DeterministicEncoder:
    """Treats each word as a token and adds a direction for it, so texts with common words are similar.

    Args:
        tokens_per_s: speed, including padding; 0 for unlimited.
    """

    def __init__(
        self, *, dimensions: int = 64, max_tokens: int = 256, tokens_per_s: float = 0.0
    ) -> None:
        self._tokens_per_s = tokens_per_s
        self.info = EncoderInfo(
            dimensions=dimensions,
            max_tokens=max_tokens,
            normalized=True,
            batch_tokens=1024,
            revision=f"deterministic-{dimensions}",
        )

    def tokenize(
        self, inputs: Sequence[Input], input_type: InputType | None, reach: int
    ) -> list[Tokens | None]:
        return [self._tokens(one, input_type, reach) for one in inputs]

    def _tokens(self, one: Input, input_type: InputType | None, reach: int) -> Tokens | None:
        limit = self.info.max_tokens
        if isinstance(one, str):
            words = one[:reach].split()
            if len(one) > reach:
                # The last word may be truncated.
                words = words[:-1]
            if input_type is not None:
                words.insert(0, _PROMPTS[input_type])
            if len(one) > reach and len(words) < limit:
                return None
            ids = [_id(word) for word in words[:limit]]
        else:
            ids = list(one)
            if any(not 0 <= token_id < VOCABULARY for token_id in ids):
                raise EngineRefused("a token id is not in the vocabulary", param="input")
        return Tokens((0, *ids[: limit - 1]), truncated=len(ids) > limit - 1)

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        if self._tokens_per_s:
            padded = len(batch) * max(len(tokens.ids) for tokens in batch)
            time.sleep(padded / self._tokens_per_s)
        rows = np.stack([self._vector(tokens) for tokens in batch])
        normalized: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return normalized.astype(np.float32)

    def _vector(self, tokens: Tokens) -> Vectors:
        total: Vectors = np.sum([self._direction(token_id) for token_id in tokens.ids], axis=0)
        return total

    def _direction(self, token_id: int) -> Vectors:
        rng = np.random.default_rng(token_id)
        return rng.standard_normal(self.info.dimensions, np.float32)


def _id(word: str) -> int:
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return 1 + int.from_bytes(digest, "big") % (VOCABULARY - 1)
