"""Hints, which change no answer here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from relais_orchestrator.api.schemas.sampling import STRICT

Hint = Annotated[dict[str, Any], Field(max_length=16)] | None
"""An object without effect here."""

Parsed = Annotated[Any, Field(description="No effect: a client's own reading of the text.")]
"""What the official clients add to what they parsed, and send back with it."""

CACHED = "No effect: every prompt's prefix may be cached."


class CachedPart(BaseModel):
    """A part of a message, behind which OpenAI's clients may ask for the prompt to be cached."""

    model_config = STRICT

    prompt_cache_breakpoint: Hint = Field(default=None, description=CACHED)
