"""What every side of the comparison looks like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

Submit = Callable[[], Awaitable[None]]
"""Submits one no-op job and waits for its result."""

POLL_S = 0.01
"""Of those that poll; 0.2 and 0.5 s as they come, which would leave them no chance."""
