"""Reads the file of API keys: clients and their rights.

    {"client1": "its key",
     "client2": {"hash": "sha256:...", "models": ["org/model"], "max_priority": "normal",
                 "requests_per_minute": 60, "tokens_per_minute": 100000, "concurrent_requests": 8,
                 "structured_outputs": ["regex", "grammar"]},
     "ops": {"hash": ["sha256:...", "sha256:..."], "admin": true}}

SHA-256 without salt is safe for keys from `generate` (256 random bits), but not for passwords that people choose.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from relais_common.jobs.channels import model_tag
from relais_common.jobs.errors import SettingsError
from relais_common.jobs.job import Priority

SETTING = "API_KEYS"
PREFIX = "rk-"
LARGEST = 100_000_000
MIN_KEY_CHARACTERS = 20
"""Minimum length of a key that is stored as a hash, or accepted without a warning."""

_KEY_ID = re.compile(r"[\w.@:+-]{1,128}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_RATES = ("requests_per_minute", "tokens_per_minute", "concurrent_requests")
_FIELDS = frozenset(
    ("key", "hash", "admin", "models", "max_priority", "structured_outputs", *_RATES)
)
COSTLY_STRUCTURES = ("regex", "grammar")
"""Kinds of structured outputs that need a right. JSON and choices are open to everybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """The rights of one client. It contains hashes of keys, never keys.

    Attributes:
        digests: SHA-256 of each of the client's keys.
        admin: whether it may use the operators' routes.
        models: models it may use; None for all.
        max_priority: the highest priority it may request.
        requests_per_minute, tokens_per_minute: limits for each model; None for unlimited.
        concurrent_requests: unfinished requests of each model; None for the orchestrator's bound.
        structured_outputs: members of `COSTLY_STRUCTURES` that it may use; None if the file does not say.
        weak: a key is stored in clear, and is short enough to guess.
    """

    digests: tuple[bytes, ...] = field(repr=False)
    admin: bool = False
    models: frozenset[str] | None = None
    max_priority: Priority = Priority.HIGH
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    structured_outputs: frozenset[str] | None = None
    weak: bool = field(default=False, compare=False)


def generate() -> str:
    """Return a new key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> bytes:
    """Return the SHA-256 of a key. Header bytes that are not UTF-8 arrive as lone surrogates."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def hash_text(key: str) -> str:
    """Return a key's hash as the file stores it: `sha256:` and 64 hexadecimal digits."""
    return f"sha256:{digest(key).hex()}"


def is_weak(key: str) -> bool:
    """Return whether a key is too easy to guess to be stored as a plain hash."""
    return len(key) < MIN_KEY_CHARACTERS or len(set(key)) < 10


def read_file(path: Path) -> dict[str, ApiKey]:
    """Read the file and return its clients by name.

    Raises:
        SettingsError: the file is unreadable or invalid. The message contains no key.
    """
    return parse(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Raises SettingsError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{SETTING}: cannot read {path}: {error.strerror}") from None


def parse(content: bytes, path: Path) -> dict[str, ApiKey]:
    """Parse the file's content. Raises SettingsError, which names the client and never a key."""
    entries = load(content, path)
    keys = {client: _entry(f"{SETTING}: {path}", client, one) for client, one in entries.items()}
    owners: dict[bytes, str] = {}
    for client, key in keys.items():
        for one in key.digests:
            if owners.setdefault(one, client) != client:
                raise SettingsError(
                    f"{SETTING}: {path}: {client!r} and {owners[one]!r} have the same key"
                )
    return keys


def load(content: bytes, path: Path) -> dict[str, Any]:
    """Return the file's entries unparsed, under valid names. Raises SettingsError."""
    try:
        entries = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise SettingsError(f"{SETTING}: {path} is not JSON") from None
    if not isinstance(entries, dict):
        raise SettingsError(f'{SETTING}: {path} is not an object like {{"client1": "key"}}')
    for client in entries:
        if not is_key_id(client):
            raise SettingsError(f"{SETTING}: {path}: {NAME_RULE}")
    return entries


NAME_RULE = "a client's name has 1 to 128 letters, digits or any of . _ @ : + -"


def is_key_id(name: str) -> bool:
    """Return whether this is a valid client name."""
    return _KEY_ID.fullmatch(name) is not None


def _entry(where: str, client: str, entry: Any) -> ApiKey:
    where = f"{where}: the entry of {client!r}"
    if isinstance(entry, str):
        entry = {"key": entry}
    if not isinstance(entry, dict):
        raise SettingsError(f"{where} is neither a key nor an object")
    if entry.keys() - _FIELDS:
        # The field's name is not shown, because it may be a misplaced key.
        raise SettingsError(f"{where} takes only: {', '.join(sorted(_FIELDS))}")
    key = entry.get("key")
    return ApiKey(
        digests=_digests(where, entry),
        admin=_admin(where, entry),
        models=_models(where, entry),
        max_priority=_max_priority(where, entry),
        structured_outputs=_structured_outputs(where, entry),
        **{name: _rate(where, entry, name) for name in _RATES},
        weak=key is not None and is_weak(key),
    )


def _digests(where: str, entry: Mapping[str, Any]) -> tuple[bytes, ...]:
    if ("key" in entry) == ("hash" in entry):
        raise SettingsError(f"{where} needs one of key and hash")
    if "key" in entry:
        key = entry["key"]
        if not isinstance(key, str) or not key or key != key.strip():
            raise SettingsError(f"{where}: key is no text, or empty, or has spaces around it")
        return (digest(key),)
    hashes = entry["hash"]
    hashes = hashes if isinstance(hashes, list) else [hashes]
    if not hashes or not all(isinstance(one, str) and _HASH.fullmatch(one) for one in hashes):
        raise SettingsError(
            f"{where}: hash takes sha256: and 64 hexadecimal digits, or a list of such"
        )
    return tuple(bytes.fromhex(one.removeprefix("sha256:")) for one in hashes)


def _admin(where: str, entry: Mapping[str, Any]) -> bool:
    admin = entry.get("admin", False)
    if not isinstance(admin, bool):
        raise SettingsError(f"{where}: admin takes true or false")
    return admin


def _models(where: str, entry: Mapping[str, Any]) -> frozenset[str] | None:
    if "models" not in entry:
        return None
    models = entry["models"]
    if not isinstance(models, list) or not all(_is_model(one) for one in models):
        raise SettingsError(f"{where}: models takes a list of models' names")
    return frozenset(models)


def _is_model(name: Any) -> bool:
    try:
        return isinstance(name, str) and bool(model_tag(name))
    except ValueError:
        return False


def _max_priority(where: str, entry: Mapping[str, Any]) -> Priority:
    try:
        return Priority(entry.get("max_priority", Priority.HIGH))
    except ValueError:
        raise SettingsError(f"{where}: max_priority takes one of: {', '.join(Priority)}") from None


def _structured_outputs(where: str, entry: Mapping[str, Any]) -> frozenset[str] | None:
    if "structured_outputs" not in entry:
        return None
    kinds = entry["structured_outputs"]
    if not isinstance(kinds, list) or not all(kind in COSTLY_STRUCTURES for kind in kinds):
        raise SettingsError(
            f"{where}: structured_outputs takes a list of: {', '.join(COSTLY_STRUCTURES)}"
        )
    return frozenset(kinds)


def _rate(where: str, entry: Mapping[str, Any], name: str) -> int | None:
    if name not in entry:
        return None
    value = entry[name]
    # JSON's true is an int in Python.
    if type(value) is not int or not 1 <= value <= LARGEST:
        raise SettingsError(f"{where}: {name} takes a whole number from 1 to {LARGEST}")
    return int(value)
