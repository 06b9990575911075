"""How far long work is, on standard error: a line that moves on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

_TERMINAL_EVERY_S = 0.2
_LOG_EVERY_S = 10.0
_WIDTH = 79


class Progress:
    """`with Progress() as show: show(done, total, "hours, 1,000 traces read")`. Quick work leaves no line."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._began = self._shown_at = time.monotonic()
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._shown and self._terminal:
            sys.stderr.write("\r" + " " * _WIDTH + "\r")
            sys.stderr.flush()

    def __call__(self, done: int, total: int, what: str) -> None:
        every_s = _TERMINAL_EVERY_S if self._terminal else _LOG_EVERY_S
        now = time.monotonic()
        if self._quiet or now - self._shown_at < every_s:
            return
        self._shown_at, self._shown = now, True
        line = f"{done:,} of {total:,} {what} ({now - self._began:.0f} s)"
        if self._terminal:
            sys.stderr.write("\r" + line[:_WIDTH].ljust(_WIDTH))
        else:
            sys.stderr.write(f"relais kpi: {line}\n")
        sys.stderr.flush()
