"""The commands' changes to the file of keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relais_admin.keys.file import changing
from relais_common.config import api_keys
from relais_common.jobs.errors import RelaisError


class KeysError(RelaisError):
    """The file does not allow the requested change."""


def create(path: Path, client: str, rights: dict[str, Any]) -> str:
    """Create a client and return its key. Raises KeysError if the client exists."""
    key = api_keys.generate()
    with changing(path) as entries:
        if client in entries:
            raise KeysError(f"{client} is there already; --add gives it one more key")
        entries[client] = {"hash": api_keys.hash_text(key), **rights}
    return key


def add(path: Path, client: str) -> str:
    """Add another key to a client and return it."""
    key = api_keys.generate()
    with changing(path) as entries:
        entry = _as_object(_entry_of(entries, client))
        hashes = _hashes(entry)
        entries[client] = {"hash": [*hashes, api_keys.hash_text(key)], **_rights(entry)}
    return key


def hash_in_file(path: Path, client: str) -> bool:
    """Replace a client's key by its hash. Returns False if it is a hash already."""
    with changing(path) as entries:
        entry = _as_object(_entry_of(entries, client))
        if "key" not in entry:
            return False
        refuse_weak(entry["key"])
        entries[client] = {"hash": api_keys.hash_text(entry["key"]), **_rights(entry)}
    return True


def revoke(path: Path, client: str) -> None:
    """Remove a client."""
    with changing(path) as entries:
        _entry_of(entries, client)
        del entries[client]


def refuse_weak(key: str) -> None:
    """Raise KeysError for a weak key, which a plain hash would not protect."""
    if api_keys.is_weak(key):
        raise KeysError(
            f"this key is too easily guessed for a hash to hide it (under {api_keys.MIN_KEY_CHARACTERS} characters, "
            "or few different ones): make one with relais keys create"
        )


def _entry_of(entries: dict[str, Any], client: str) -> Any:
    if client not in entries:
        raise KeysError(f"there is no client {client}")
    return entries[client]


def _as_object(entry: Any) -> dict[str, Any]:
    return entry if isinstance(entry, dict) else {"key": entry}


def _rights(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("key", "hash")}


def _hashes(entry: dict[str, Any]) -> list[str]:
    if "key" in entry:
        refuse_weak(entry["key"])
        return [api_keys.hash_text(entry["key"])]
    hashes = entry["hash"]
    return hashes if isinstance(hashes, list) else [hashes]
