"""JSON within a text of a body, which a chat template gets as an object: bounded as bodies are. Pure."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

MAX_DEPTH = 200
"""Pydantic's own for bodies."""

MAX_CONTAINERS = 65_536
MAX_DIGITS = 4_300
"""Python's own for integers in a text."""

_TEXT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_LONG_NUMBER = re.compile(rf"(?<![0-9.])[0-9]{{{MAX_DIGITS + 1}}}")


def check_json(text: str) -> str:
    """Refuse what costs too much to parse. What is no JSON is left to those who parse it."""
    has_long_number = _LONG_NUMBER.search(text) is not None
    if not has_long_number and _containers(text) <= MAX_DEPTH:
        return text
    plain = _TEXT.sub('""', text)
    if has_long_number and _LONG_NUMBER.search(plain):
        raise PydanticCustomError(
            "too_long", "a number in it has more than {most} digits", {"most": MAX_DIGITS}
        )
    if _containers(plain) > MAX_CONTAINERS:
        raise PydanticCustomError(
            "too_long", "at most {most} lists and objects", {"most": MAX_CONTAINERS}
        )
    if _is_deep(plain):
        raise PydanticCustomError(
            "too_deep", "at most {most} levels of nesting", {"most": MAX_DEPTH}
        )
    return text


def _containers(text: str) -> int:
    return text.count("[") + text.count("{")


def _is_deep(plain: str) -> bool:
    depth = 0
    for bracket in _BRACKET.finditer(plain):
        depth += 1 if bracket[0] in "[{" else -1
        if not 0 <= depth <= MAX_DEPTH:
            return depth > 0
    return False


Arguments = Annotated[str, AfterValidator(check_json), Field(description="JSON.")]
"""Of a function that an earlier answer called."""
