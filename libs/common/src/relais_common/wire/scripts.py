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


def source(name: str) -> str:
    """The full text of a script, with the library that all of them share in front."""
    folder = files("relais_common.wire") / "lua"
    return (folder / "lib.lua").read_text() + "\n" + (folder / f"{name}.lua").read_text()
