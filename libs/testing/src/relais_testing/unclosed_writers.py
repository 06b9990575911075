"""A warning that is the Redis client's own."""

from __future__ import annotations

from pathlib import Path

import pytest


def let_writers_be_collected(items: list[pytest.Item], folder: Path) -> None:
    """Ignore it in the tests below `folder`.

    The Redis client leaves the closing of a connection to the garbage collector where it is cancelled while it
    connects, as when many clients leave at once.
    """
    ignored = pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")
    for item in items:
        if folder in item.path.parents:
            item.add_marker(ignored)
