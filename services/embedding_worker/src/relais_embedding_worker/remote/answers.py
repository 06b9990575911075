"""Reads servers' vectors, scores and classes. Whatever is not what was asked for is refused. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from relais_common.remote.errors import Lost
from relais_common.remote.server import MAX_COUNT
from relais_embedding_worker.encoder import Vectors

MAX_BYTES = 4 << 20
"""Size of one answer; reading as many numbers takes some 30 ms."""
MAX_NUMBERS = 300_000
"""Numbers of one answer, if they are not packed; short ones would take long to read."""
MAX_LABELS_SIZE = 64 << 10
"""Characters of all labels, which a job's last event carries."""
MAX_CLASSES = 4096
"""Of a model: each has a name there, if only none."""
_SPARE_OBJECTS = 16
_ROW_BYTES = 128 << 10
_SPARE_BYTES = 64 << 10
_SPARE_TOKENS = 64
"""Tokens that a server may put around one input."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One answer.

    Attributes:
        tokens: None if the server does not tell them, or tells more than there can be.
        truncated: inputs that were cut, as Relais tells them.
        labels: the names of columns, as far as the server tells them.
    """

    rows: Vectors
    tokens: int | None
    truncated: int = 0
    labels: Mapping[int, str] = field(default_factory=dict)


class _Vector(Struct, rename={"numbers": "embedding"}):
    numbers: str | list[float]
    index: int | None = None


class _Vectors(Struct):
    data: list[_Vector]
    usage: Any = None


class _Classified(Struct, rename={"numbers": "probs"}):
    numbers: str | list[float]
    index: int | None = None
    label: str | None = None


class _Classes(Struct):
    data: list[_Classified]
    usage: Any = None
    labels: list[str | None] = []


class _Score(Struct):
    index: int
    relevance_score: float | None = None
    score: float | None = None


class _Scores(Struct):
    results: list[_Score]
    usage: Any = None


_READ_VECTORS = msgspec.json.Decoder(_Vectors)
_READ_CLASSES = msgspec.json.Decoder(_Classes)
_READ_SCORES = msgspec.json.Decoder(_Scores | list[_Score])


def most_bytes(inputs: int, size: int) -> int:
    """Return the bound on the answer to a request.

    Args:
        size: of its texts, which some servers send back.
    """
    return min(MAX_BYTES, _SPARE_BYTES + inputs * _ROW_BYTES + 2 * size)


def read_vectors(answer: bytes, count: int, size: int) -> Rows:
    """Return the vectors of OpenAI's form, as numbers or base64, in the order of the inputs.

    Raises:
        Lost: it has none, or not one for each input, or they are of different lengths or not finite.
    """
    read, rows, _ = _table(_READ_VECTORS, answer, count)
    return Rows(rows, *_told(read.usage, count, size))


def read_classes(answer: bytes, count: int, size: int) -> Rows:
    """Return the probabilities of vLLM's form, in the order of the inputs. Raises Lost as `read_vectors` does."""
    read, rows, order = _table(_READ_CLASSES, answer, count)
    # vLLM names the most probable class alone; Relais names all.
    told = [*enumerate(read.labels[: rows.shape[1]])]
    told += [
        (int(best), read.data[at].label)
        for best, at in zip(rows.argmax(axis=1), order, strict=True)
    ]
    labels = {at: label for at, label in told if label is not None}
    if rows.shape[1] > MAX_CLASSES or are_too_long(labels):
        raise Lost("its labels are too many or too long")
    return Rows(rows, *_told(read.usage, count, size), labels)


def are_too_long(labels: Mapping[int, str]) -> bool:
    """Whether these labels are more than a job's last event may carry."""
    return sum(map(len, labels.values())) > MAX_LABELS_SIZE


_List = TypeVar("_List", _Vectors, _Classes)


def _table(
    decoder: msgspec.json.Decoder[_List], answer: bytes, count: int
) -> tuple[_List, Vectors, Sequence[int]]:
    """Return what is read, its numbers in the order of the inputs, and where each input's row is."""
    if answer.count(b",") > MAX_NUMBERS or answer.count(b"{") > 2 * count + _SPARE_OBJECTS:
        raise Lost("its answer has too many numbers or rows")
    try:
        read = decoder.decode(answer)
        # Before anything else, which costs time for each of too many rows.
        order = _order([one.index for one in read.data], count)
        rows = [_numbers(one.numbers) for one in read.data]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Lost("its answer has no vectors") from None
    if not all(0 < len(one) == len(rows[0]) and np.isfinite(one).all() for one in rows):
        raise Lost("its vectors are empty, of different lengths or not finite")
    return read, np.stack([rows[at] for at in order]), order


def read_scores(answer: bytes, count: int, size: int) -> Rows:
    """Return the scores of Jina's form or TEI's, one a row, in the order of the documents.

    Raises:
        Lost: it has none, or not one for each document, or they are not finite.
    """
    try:
        read = _READ_SCORES.decode(answer)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Lost("its answer has no scores") from None
    usage, results = (None, read) if isinstance(read, list) else (read.usage, read.results)
    order = _order([one.index for one in results], count)
    scores = [one.score if one.relevance_score is None else one.relevance_score for one in results]
    if None in scores:
        raise Lost("its answer has no scores")
    rows = _floats([[scores[at]] for at in order])
    if not np.isfinite(rows).all():
        raise Lost("its scores are not finite")
    return Rows(rows, *_told(usage, count, size))


def _numbers(given: str | list[float]) -> Vectors:
    if isinstance(given, str):
        return np.frombuffer(base64.b64decode(given, validate=True), "<f4")
    return _floats(given)


def _floats(given: Sequence[Any]) -> Vectors:
    # What is too large becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        return np.array(given, np.float64).astype(np.float32)


def _order(indexes: Sequence[int | None], count: int) -> list[int]:
    """Return where each input's row is; in the order of the answer if it has no indexes."""
    if len(indexes) == count:
        if indexes.count(None) == count:
            return list(range(count))
        places = {index: at for at, index in enumerate(indexes)}
        if places.keys() == set(range(count)):
            return [places[index] for index in range(count)]
    raise Lost(f"its answer has not one row for each of {count} inputs")


def _told(usage: Any, count: int, size: int) -> tuple[int | None, int]:
    """Return tokens and truncated inputs."""
    if not isinstance(usage, dict):
        return None, 0
    most = min(MAX_COUNT, size + count * _SPARE_TOKENS)
    tokens = _up_to(most, usage.get("prompt_tokens", usage.get("total_tokens")))
    return tokens, _up_to(count, usage.get("truncated_inputs")) or 0


def _up_to(most: int, given: object) -> int | None:
    return given if type(given) is int and 0 <= given <= most else None
