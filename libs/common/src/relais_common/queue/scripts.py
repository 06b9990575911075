"""The Redis scripts, each one atomic step of a job's life.

A script lies beside the adapter that runs it and documents its KEYS and ARGV; `lua/` holds what several share.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

_ROOMS: dict[str, tuple[str, ...]] = {
    "intake": ("enqueue", "cancel", "watch", "unwatch"),
    "source": ("take", "start", "append", "finish", "renew", "release"),
    "events": ("state",),
    "recovery": ("reap",),
    "operations": ("queue", "channels", "dead", "replay", "drop"),
    "traces": ("collect", "written", "shelve"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}
NAMES = tuple(_ROOM_OF)

_CORE = "lua/core"
_ALL = (_CORE, "lua/journal", "lua/accounts", "lua/traces", "lua/stored", "lua/lib")
_PARTS: dict[str, tuple[str, ...]] = {
    "take": (*_ALL, "source/turns"),
    # Called most, for every token and watcher: the library costs as much as what they do.
    **dict.fromkeys(("append", "start", "watch", "unwatch"), (_CORE,)),
    **dict.fromkeys(("collect", "written", "shelve"), (_CORE, "lua/traces")),
    "reap": (*_ALL, "recovery/mend"),
}


def source(name: str) -> str:
    """The full text of a script: what it shares with others, what it does, and what watches over that."""
    shared = [_text(part) for part in _PARTS.get(name, _ALL)]
    step = _text(f"{_ROOM_OF[name]}/{name}")
    return "\n".join((*shared, "local function step()", step, "end", _text("lua/guard")))


def _text(path: str) -> str:
    return files("relais_common.queue").joinpath(f"{path}.lua").read_text()


def digest(name: str) -> str:
    """By which a server knows the script."""
    return hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest()
