"""The Redis scripts, each one atomic step of a job's life. Their KEYS and ARGV are documented in `lua/`."""

from __future__ import annotations

import hashlib
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
    "unwatch",
    "state",
    "reap",
    "queue",
    "channels",
    "dead",
    "replay",
    "drop",
    "collect",
    "written",
    "shelve",
)

_ALL = ("core", "accounts", "traces", "stored", "lib")
_PARTS: dict[str, tuple[str, ...]] = {
    "take": (*_ALL, "turns"),
    # Called most, for every token and watcher: the library costs as much as what they do.
    **dict.fromkeys(("append", "start", "watch", "unwatch"), ("core",)),
    **dict.fromkeys(("collect", "written", "shelve"), ("core", "traces")),
}


def source(name: str) -> str:
    """The full text of a script, with what it shares with others in front."""
    folder = files("relais_common.wire") / "lua"
    parts = (*_PARTS.get(name, _ALL), name)
    return "\n".join((folder / f"{part}.lua").read_text() for part in parts)


def digest(name: str) -> str:
    """By which a server knows the script."""
    return hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest()
