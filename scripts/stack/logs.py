"""The logs of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

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


def show(run_dir: Path, name: str | None, *, follow: bool, raw: bool) -> None:
    """Print the last lines of all logs, or of one, readable or as they were written (`raw`)."""
    found = sorted((run_dir / "logs").glob("*.log"))
    if name is not None:
        names = ", ".join(path.stem for path in found) or "none"
        found = [path for path in found if path.stem == name]
        if not found:
            raise StackError(f"there is no log of '{name}': there are {names}")
    if not found:
        raise StackError(f"there are no logs in {run_dir / 'logs'}: nothing was started")
    # It knows how to follow files that are rotated.
    command = ["tail", "-n", "50", *(["-F"] if follow else []), "--", *map(str, found)]
    if raw:
        os.execvp("tail", command)  # noqa: S606
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as tail:
        assert tail.stdout is not None
        try:
            for line in tail.stdout:
                sys.stdout.write(readable(line.rstrip("\n")) + "\n")
                sys.stdout.flush()
        except KeyboardInterrupt:
            return
        finally:
            tail.terminate()


def readable(line: str) -> str:
    """A service's JSON line as `LOG_FORMAT=console` has it; any other line as it is."""
    try:
        fields = json.loads(line) if line.startswith("{") else None
    except ValueError:
        return line
    render = _renderer()
    if render is None or not isinstance(fields, dict) or "event" not in fields:
        return line
    fields.pop("service", None)  # the log's name says it
    return render(fields)


@cache
def _renderer() -> Callable[[dict[str, Any]], str] | None:
    try:
        # Not there before the first start has installed them.
        from structlog.dev import ConsoleRenderer

        from relais_common.runtime.logs import escape_controls
    except ImportError:
        return None
    console = ConsoleRenderer(colors=sys.stdout.isatty(), pad_event_to=0)
    return lambda fields: console(None, "", escape_controls(None, "", fields))
