"""Reads a batch's whole input before anything of it is queued."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from relais_common.jobs.channels import MAX_BATCH_LINES
from relais_common.jobs.errors import RelaisError
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.batches.lines import read_line, wrong_line
from relais_orchestrator.batches.parts import BatchParts

MAX_ERRORS = 100


@dataclass(slots=True)
class Validation:
    """What was found.

    Attributes:
        last_line: its number; blank lines count.
        shards: those of the model that its lines go to, in turn.
    """

    total: int = 0
    last_line: int = 0
    model: str | None = None
    shards: list[int] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)

    def note(self, error: RelaisError, line: int | None = None) -> None:
        """Note an error, of a line or of the whole batch."""
        self.errors.append(
            {"code": error.code, "message": error.message, "param": error.param, "line": line}
        )


async def validate(
    parts: BatchParts,
    path: str,
    caller: Caller,
    lines: AsyncIterator[tuple[int, bytes | None]],
) -> Validation:
    """Check every line by its route's own schema; stops after `MAX_ERRORS` errors.

    Raises:
        FileNotKnown: the input was deleted.
    """
    found = Validation()
    seen: set[bytes] = set()
    most = parts.shared.settings.batches.max_lines
    async for number, text in lines:
        found.total += 1
        found.last_line = number
        if found.total > most or number > MAX_BATCH_LINES:
            found.note(wrong_line("too_many_requests", f"at most {most} requests"), number)
            break
        try:
            line = await read_line(parts, path, caller, text)
            name = hashlib.blake2b(line.custom_id.encode(), digest_size=16).digest()
            if name in seen:
                raise wrong_line(
                    "duplicate_custom_id", "custom_id: another line has the same", "custom_id"
                )
            seen.add(name)
            if found.model not in (None, line.model):
                raise wrong_line(
                    "mismatched_model",
                    f"body.model: all lines have one model, and another has {found.model!r}",
                    "body.model",
                )
            found.model = line.model
        except RelaisError as error:
            found.note(error, number)
            if len(found.errors) >= MAX_ERRORS:
                break
    if found.model is not None:
        found.shards = parts.shared.submitter.shards_of_lines(found.model, caller)
    if not found.total:
        found.note(wrong_line("empty_file", "the file has no requests"))
    return found
