"""What is computed of vectors. Pure."""

from __future__ import annotations

import numpy as np

from relais_embedding_worker.encoder import Vectors


def shortened(rows: Vectors, dimensions: int) -> Vectors:
    """Return the first dimensions, normalised to length 1, as models trained for it (Matryoshka) allow."""
    return rows if dimensions == rows.shape[1] else _normalized(rows[:, :dimensions])


def cosines(rows: Vectors, queries: int) -> Vectors:
    """Return the cosine similarity of each input with the query, or with its own query."""
    rows = _normalized(rows)
    scores: Vectors = np.sum(rows[:queries] * rows[queries:], axis=1, keepdims=True)
    return np.clip(scores, -1.0, 1.0)


def _normalized(rows: Vectors) -> Vectors:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    normalized: Vectors = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return normalized
