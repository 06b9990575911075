"""What an answer must be, in the words of the library that the engine follows it with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Library:
    """The library that compiles specifications, and what it must know of the model.

    Attributes:
        backend: vLLM's name of it, `guidance` or `xgrammar`.
        tokenizer: the model's, serialised as that library reads it.
        vocab_size: width of a mask.
        eos_token_id: None where the tokenizer has none, or says it itself.
        any_whitespace: JSON may hold white space between its parts.
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
        kind: `json`, `regex`, `choice`, `grammar` or `lark`.
        text: the schema, pattern, choices or grammar.
        allowed_token_ids: the only tokens that the request lets through; empty for all.
        param: the field that it came in.
    """

    kind: str
    text: str
    allowed_token_ids: tuple[int, ...]
    param: str

    @property
    def digest(self) -> bytes:
        """The same for specifications that cost the same, whichever field they came in."""
        return hashlib.sha256(orjson.dumps(self.content())).digest()

    def content(self) -> dict[str, Any]:
        """What a trial needs of it."""
        return {"kind": self.kind, "text": self.text, "allowed": self.allowed_token_ids}


@dataclass(frozen=True, slots=True)
class Budget:
    """What one trial may take.

    Attributes:
        cpu_s: CPU seconds in all.
        step_cpu_s: CPU seconds of one step. All running requests wait for it.
        memory_bytes: address space beside what the process has before.
        wall_s: after which a child that does nothing is killed.
    """

    cpu_s: float
    step_cpu_s: float
    memory_bytes: int = 1 << 29
    wall_s: float = 60.0
