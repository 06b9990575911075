"""Declarations of the headers that report what a key has left of its minute."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from relais_orchestrator.api.route import Header

Count = Annotated[int, Field(ge=0)]
Duration = Annotated[str, StringConstraints(pattern=r"^(\d+h)?(\d+m)?\d+(\.\d+)?m?s$")]

RATE_LIMITS = tuple(
    header
    for what in ("requests", "tokens")
    for header in (
        Header(
            f"x-ratelimit-limit-{what}", Count, f"{what.title()} a minute, of this key and model."
        ),
        Header(f"x-ratelimit-remaining-{what}", Count, "What is left of them."),
        Header(f"x-ratelimit-reset-{what}", Duration, "Until all of them are there again."),
    )
)
"""Sent only if the key has such a limit."""
