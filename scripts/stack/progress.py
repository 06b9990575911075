"""Steps with their times: a ticking line on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_TICK_AFTER_S = 2.0
_LINE_EVERY_S = 10.0
_FRAMES = "|/-\\"


def emit(text: str) -> None:
    """Write to standard output. A reader that went away (`| head`, a closed terminal) stops no process of ours."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  open until the end


def say(message: str) -> None:
    emit(f"bootstrap: {message}\n")


class Wait:
    """One wait in progress: `tick` often, `say` what happened meanwhile."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._said = self._started
        self._terminal = sys.stdout.isatty()
        self._ticks = 0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def tick(self, what: str) -> None:
        if self._terminal:
            if self.elapsed_s >= _TICK_AFTER_S:
                frame = _FRAMES[self._ticks % len(_FRAMES)]
                self._ticks += 1
                emit(f"\r\033[Kbootstrap: {what} {frame} {self.elapsed_s:.0f} s")
        elif time.monotonic() - self._said >= _LINE_EVERY_S:
            self._said = time.monotonic()
            say(f"{what}: {self.elapsed_s:.0f} s")

    def say(self, message: str) -> None:
        self.clear()
        say(message)

    def clear(self) -> None:
        """Take the ticking line away."""
        if self._terminal and self._ticks:
            emit("\r\033[K")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.clear()
