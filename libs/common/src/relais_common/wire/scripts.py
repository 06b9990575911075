"""The Redis scripts, each one atomic step of a job's life. Their KEYS and ARGV are documented in `lua/`."""

from __future__ import annotations

from importlib.resources import files

NAMES = (
    "enqueue",
    "take",
    "start",
    "append",
    "finish",
    "renew",
    "release",
    "cancel",
    "watch",
    "state",
    "reap",
    "queue",
    "channels",
    "dead",
    "replay",
    "drop",
)


_SHORT = frozenset(("append", "start", "watch"))
"""Called most, for every token and watcher: they go without the library, which costs as much as what they do."""


def source(name: str) -> str:
    """The full text of a script, with what it shares with others in front."""
    folder = files("relais_common.wire") / "lua"
    parts = ("core", name) if name in _SHORT else ("core", "accounts", "lib", name)
    return "\n".join((folder / f"{part}.lua").read_text() for part in parts)
