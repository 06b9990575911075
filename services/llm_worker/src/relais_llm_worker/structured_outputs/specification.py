"""A constraint on an answer, in the form of the library that enforces it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Library:
    """The library that compiles specifications, and the model properties that it needs.

    Attributes:
        backend: vLLM's name for it, `guidance` or `xgrammar`.
        tokenizer: the model's tokenizer, serialised for that library.
        vocab_size: width of a mask.
        eos_token_id: None if the tokenizer has none, or contains it.
        any_whitespace: whether JSON may have white space between its parts.
    """

    backend: str
    tokenizer: str
    vocab_size: int
    eos_token_id: int | None
    any_whitespace: bool


@dataclass(frozen=True, slots=True)
class Specification:
    """One request's structured output.

    Attributes:
        kind: `json`, `regex`, `choice`, `grammar`, `lark` or, of tools, `structural_tag`.
        text: the schema, pattern, choices or grammar.
        allowed_token_ids: the only tokens that the request allows; empty for all.
        param: the request field that it came from.
    """

    kind: str
    text: str
    allowed_token_ids: tuple[int, ...]
    param: str

    @property
    def digest(self) -> bytes:
        """Return a digest that does not depend on the request field."""
        return hashlib.sha256(orjson.dumps(self.content())).digest()

    def content(self) -> dict[str, Any]:
        """Return the part that a trial needs."""
        return {"kind": self.kind, "text": self.text, "allowed": self.allowed_token_ids}


@dataclass(frozen=True, slots=True)
class Budget:
    """The resources that one trial may use.

    Attributes:
        cpu_s: total CPU seconds.
        step_cpu_s: CPU seconds of one step. All running requests wait for it.
        memory_bytes: additional address space.
        wall_s: time after which an idle child is killed.
    """

    cpu_s: float
    step_cpu_s: float
    memory_bytes: int = 1 << 29
    wall_s: float = 60.0
