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

_ALL = ("core", "journal", "accounts", "traces", "stored", "lib")
_PARTS: dict[str, tuple[str, ...]] = {
    "take": (*_ALL, "turns"),
    # Called most, for every token and watcher: the library costs as much as what they do.
    **dict.fromkeys(("append", "start", "watch", "unwatch"), ("core",)),
    **dict.fromkeys(("collect", "written", "shelve"), ("core", "traces")),
    "reap": (*_ALL, "mend"),
}


def source(name: str) -> str:
    """The full text of a script: what it shares with others, what it does, and what watches over that."""
    folder = files("relais_common.wire") / "lua"

    def text(part: str) -> str:
        return (folder / f"{part}.lua").read_text()

    shared = [text(part) for part in _PARTS.get(name, _ALL)]
    return "\n".join((*shared, "local function step()", text(name), "end", text("guard")))


def digest(name: str) -> str:
    """By which a server knows the script."""
    return hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest()
