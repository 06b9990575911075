"""The ports of encoders, rerankers and classifiers, independent of any library."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from relais_common.jobs.job import InputType

Vectors = NDArray[np.float32]
"""A matrix with one row for each input."""

Input = str | tuple[int, ...]
"""A text, or the model's token ids without special tokens."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenised input.

    Attributes:
        ids: token ids with special tokens, truncated at the model's limit.
        prompt_length: tokens of the prompt before it if the model's pooling excludes them; else 0.
        truncated: whether the input was longer.
        second_at: where the second text of a pair begins; 0 if it has no template's special tokens.
    """

    ids: tuple[int, ...]
    prompt_length: int = 0
    truncated: bool = False
    second_at: int = 0


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """The properties of a loaded model.

    Attributes:
        max_tokens: tokens of one input; longer inputs are truncated.
        normalized: whether its vectors have length 1.
        batch_tokens: batch size in tokens, including padding, at which it is nearly as fast as possible.
        weight_bytes: of its weights in memory.
        shorter: dimensions to which its vectors may be cut, according to its configuration (Matryoshka).
        revision: identifies the weights and their precision.
        labels: the names of its classes, if it is a classification model.
    """

    dimensions: int
    max_tokens: int
    normalized: bool
    batch_tokens: int
    revision: str
    weight_bytes: int = 0
    shorter: Collection[int] = ()
    labels: tuple[str, ...] = ()


class Encoder(Protocol):
    """An embedding model. One thread calls `encode`; two others call `tokenize` concurrently."""

    @property
    def info(self) -> EncoderInfo:
        """Return what the encoder is and how it is limited."""

    def tokenize(
        self, inputs: Sequence[Input], input_type: InputType | None, reach: int
    ) -> list[Tokens | None]:
        """Tokenise each input, in order; None if the model reads beyond the first `reach` characters.

        The tokens do not depend on the reach.

        Raises:
            EngineRefused: the model lacks a token id.
        """
        ...

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        """Return the model's vectors in the order of the batch, in fp32."""
        ...


@runtime_checkable
class Reranker(Encoder, Protocol):
    """A cross-encoder: it reads a query and a document together. `tokenize` returns texts without special tokens.

    `encode` takes what `pair` returns, and gives rows with one column: the score.
    """

    def pair(self, query: Tokens, document: Tokens) -> Tokens:
        """Return what the model reads of both, with special tokens, truncated at its limit."""
        ...


@runtime_checkable
class Classifier(Encoder, Protocol):
    """A classification model. `tokenize` returns texts without special tokens.

    `encode` takes what `complete` returns, and gives rows with a column for each class: its probability.
    """

    def complete(self, text: Tokens, max_tokens: int, *, special_tokens: bool) -> Tokens:
        """Return what the model reads of a text, truncated.

        Args:
            special_tokens: whether to add the model's.

        Raises:
            EngineRefused: so few tokens have no room for any of the text, or nothing would be read.
        """
        ...
