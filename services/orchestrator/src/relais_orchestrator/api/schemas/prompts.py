"""Prompts of plain completions, one or several."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import Field, StringConstraints, ValidationInfo
from pydantic_core import PydanticCustomError

from relais_orchestrator.api.schemas.branches import branch
from relais_orchestrator.api.schemas.sampling import TokenIds

MAX_ANSWERS_IN_ALL = 128
"""Answers of one request: `n` to each prompt."""

PromptText = Annotated[str, StringConstraints(min_length=1)]
Prompts = (
    Annotated[PromptText, branch("text")]
    | Annotated[TokenIds, branch("ids")]
    | Annotated[
        list[PromptText],
        Field(fail_fast=True, min_length=1, max_length=MAX_ANSWERS_IN_ALL),
        branch("texts"),
    ]
    | Annotated[
        list[TokenIds],
        Field(fail_fast=True, min_length=1, max_length=MAX_ANSWERS_IN_ALL),
        branch("lists of ids"),
    ]
)
"""Text, token ids, or a list of these."""

Given = str | list[int] | list[str] | list[list[int]]


def each(prompt: Given | None) -> tuple[str | tuple[int, ...], ...]:
    """Return the prompts, one by one."""
    if prompt is None:
        return ()
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt[0], int):
        return (tuple(cast(Any, prompt)),)
    several = cast("list[str | list[int]]", prompt)
    return tuple(one if isinstance(one, str) else tuple(one) for one in several)


def check_answers(n: int | None, prompt: Given | None) -> None:
    """Refuse more answers in all than a request may have."""
    if (n or 1) * len(each(prompt)) > MAX_ANSWERS_IN_ALL:
        raise PydanticCustomError(
            "too_many_answers",
            "at most {most} answers in all, n to each prompt",
            {"most": MAX_ANSWERS_IN_ALL},
        )


def n_of(info: ValidationInfo) -> int:
    """Return the validated `n`."""
    return info.data.get("n") or 1
