"""The logs of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from stack.errors import StackError
from stack.model import Run

_TAIL_BYTES = 65536


LogSizes = Mapping[str, int]
"""Bytes of each program's log before this run, which are an earlier run's."""


def log_sizes(run: Run) -> LogSizes:
    return {
        one.name: path.stat().st_size
        for one in run.programs
        if (path := log_file(run, one.name)).exists()
    }


def last_lines(run: Run, name: str, count: int, *, after: LogSizes) -> list[str]:
    """The last lines of one program's log that say something, as long as they are this run's."""
    path = log_file(run, name)
    try:
        with path.open("rb") as file:
            size, earlier = path.stat().st_size, after.get(name, 0)
            # A log that is smaller than before was rotated meanwhile: all of it is new.
            file.seek(max(earlier if earlier <= size else 0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def log_file(run: Run, name: str) -> Path:
    return run.logs / f"{name}.log"


def show(run_dir: Path, name: str | None, *, follow: bool) -> None:
    """Become `tail`, which knows how to follow files that are rotated."""
    found = sorted((run_dir / "logs").glob("*.log"))
    if name is not None:
        names = ", ".join(path.stem for path in found) or "none"
        found = [path for path in found if path.stem == name]
        if not found:
            raise StackError(f"there is no log of '{name}': there are {names}")
    if not found:
        raise StackError(f"there are no logs in {run_dir / 'logs'}: nothing was started")
    os.execvp("tail", ["tail", "-n", "50", *(["-F"] if follow else []), "--", *map(str, found)])  # noqa: S606
