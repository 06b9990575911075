"""The Redis scripts, each one atomic step of a job's life.

Each script is beside the adapter that runs it, and documents its KEYS and ARGV; `lua/` has what several share.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

_CORE = "lua/core"
_ALL = (_CORE, "lua/journal", "lua/accounts", "lua/traces", "lua/stored", "lua/images", "lua/lib")
_PARTS: dict[str, tuple[str, ...]] = {
    "enqueue": (*_ALL, "lua/homes"),
    "take": (*_ALL, "lua/homes", "source/turns"),
    # Called most often, for every token and watcher; the library would double their cost.
    **dict.fromkeys(("append", "start", "watch", "unwatch"), (_CORE,)),
    **dict.fromkeys(("collect", "written", "shelve"), (_CORE, "lua/traces")),
    "reap": (*_ALL, "recovery/mend"),
}


def _find_steps() -> dict[str, str]:
    """Return the room of each step: every script beside an adapter that is not a part of others."""
    parts_of_others = {part for parts in (_ALL, *_PARTS.values()) for part in parts}
    return {
        script.name.removesuffix(".lua"): room.name
        for room in files("relais_common.queue").iterdir()
        if room.is_dir() and room.name != "lua"
        for script in room.iterdir()
        if script.name.endswith(".lua")
        and f"{room.name}/{script.name.removesuffix('.lua')}" not in parts_of_others
    }


_ROOM_OF = _find_steps()
NAMES = tuple(sorted(_ROOM_OF))


def source(name: str) -> str:
    """Return the full text of a script: the shared library, its body, and its error handling."""
    shared = [_text(part) for part in _PARTS.get(name, _ALL)]
    step = _text(f"{_ROOM_OF[name]}/{name}")
    return "\n".join((*shared, "local function step()", step, "end", _text("lua/guard")))


@cache  # each process that starts asks for the same few files ten times over
def _text(path: str) -> str:
    return files("relais_common.queue").joinpath(f"{path}.lua").read_text()


def digest(name: str) -> str:
    """Return the digest by which a server knows the script."""
    return hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest()
