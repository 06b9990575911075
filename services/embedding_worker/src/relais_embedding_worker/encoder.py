"""What the worker asks of an encoder. No library behind it is known here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from relais_common.jobs.job import InputType

Vectors = NDArray[np.float32]
"""One row for each input."""

Input = str | tuple[int, ...]
"""A text, or token ids of the model without its special tokens."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One input as the model reads it.

    Attributes:
        ids: with special tokens, cut where the model's own cut is.
        prompt_length: tokens of the prompt before it, where the model's pooling leaves them out; else 0.
        truncated: it was longer.
    """

    ids: tuple[int, ...]
    prompt_length: int = 0
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What is known of a loaded model.

    Attributes:
        max_tokens: of one input; what is longer is cut.
        normalized: its vectors have length 1.
        batch_tokens: of a batch, padding counted, where it is nearly as fast as it gets.
        shorter: to which dimensions its vectors may be cut, by its own word: it was trained for them (Matryoshka).
        revision: what identifies the weights and their precision.
    """

    dimensions: int
    max_tokens: int
    normalized: bool
    batch_tokens: int
    revision: str
    shorter: Collection[int] = ()


class Encoder(Protocol):
    """A model. `encode` is called from one thread; `tokenize` from two others, and from both at once."""

    @property
    def info(self) -> EncoderInfo: ...

    def tokenize(
        self, inputs: Sequence[Input], input_type: InputType | None, reach: int
    ) -> list[Tokens | None]:
        """Tokens of each input, in order; None where the model reads on after the first `reach` characters.

        What is given is the same whatever the reach.

        Raises:
            EngineRefused: a token id that the model does not have.
        """
        ...

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        """In the order of the batch; as the model gives them, in fp32."""
        ...
