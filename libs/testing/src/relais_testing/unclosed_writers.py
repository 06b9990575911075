"""A warning that is the Redis client's own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

# In newer releases of Python 3.11 a writer warns, and closes its connection; in older ones (Debian 12 has 3.11.2) the
# connection and its socket do.
_UNCLOSED = (
    ("unclosed <StreamWriter",)
    if hasattr(asyncio.StreamWriter, "__del__")
    else ("unclosed transport <_SelectorSocketTransport", "unclosed <socket.socket")
)


def let_writers_be_collected(items: list[pytest.Item], folder: Path) -> None:
    """Ignore it in the tests below `folder`.

    The Redis client leaves the closing of a connection to the garbage collector where it is cancelled while it
    connects, as when many clients leave at once.
    """
    ignored = pytest.mark.filterwarnings(*(f"ignore:{text}:ResourceWarning" for text in _UNCLOSED))
    for item in items:
        if folder in item.path.parents:
            item.add_marker(ignored)
