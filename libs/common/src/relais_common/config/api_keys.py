"""Reads the file of API keys: clients and their rights.

    {"client1": "its key",
     "client2": {"hash": "sha256:...", "models": ["org/model"], "max_priority": "normal",
                 "requests_per_minute": 60, "tokens_per_minute": 100000, "tokens_per_day": 10000000,
                 "concurrent_requests": 8,
                 "structured_outputs": ["regex", "grammar"]},
     "ops": {"hash": ["sha256:...", "sha256:..."], "admin": true}}

SHA-256 without salt is safe for keys from `generate` (256 random bits), but not for passwords that people choose.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import orjson
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict

from relais_common.config.entries import read_entry
from relais_common.jobs.channels import model_tag
from relais_common.jobs.errors import SettingsError
from relais_common.jobs.job import Priority

SETTING = "API_KEYS"
PREFIX = "rk-"
LARGEST = 100_000_000
LARGEST_DAILY = 100_000_000_000
MIN_KEY_CHARACTERS = 20
"""Minimum length of a key that is stored as a hash, or accepted without a warning."""

_KEY_ID = re.compile(r"[\w.@:+-]{1,128}")
_CostlyStructure = Literal["regex", "grammar"]
COSTLY_STRUCTURES: tuple[str, ...] = get_args(_CostlyStructure)
"""Kinds of structured outputs that need a right. JSON and choices are open to everybody."""

_Key = Annotated[str, Meta(pattern=r"(?s)\A\S(.*\S)?\Z")]
_Hash = Annotated[str, Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]
_Rate = Annotated[int, Meta(ge=1, le=LARGEST)]
_DailyRate = Annotated[int, Meta(ge=1, le=LARGEST_DAILY)]
_RATE_TAKES = f"a whole number from 1 to {LARGEST}"


class _Entry(Struct, kw_only=True, forbid_unknown_fields=True):
    """One client's object in the file."""

    key: _Key | UnsetType = UNSET
    hash: _Hash | Annotated[list[_Hash], Meta(min_length=1)] | UnsetType = UNSET
    admin: bool = False
    models: frozenset[str] | UnsetType = UNSET
    max_priority: Priority = Priority.HIGH
    structured_outputs: frozenset[_CostlyStructure] | UnsetType = UNSET
    requests_per_minute: _Rate | UnsetType = UNSET
    tokens_per_minute: _Rate | UnsetType = UNSET
    tokens_per_day: _DailyRate | UnsetType = UNSET
    concurrent_requests: _Rate | UnsetType = UNSET


_TAKES = {
    "": f"a key, or an object of only: {', '.join(sorted(_Entry.__struct_fields__))}",
    "key": "text that is not empty and has no spaces around it",
    "hash": "sha256: and 64 hexadecimal digits, or a list of such",
    "admin": "true or false",
    "models": "a list of models' names",
    "max_priority": f"one of: {', '.join(Priority)}",
    "structured_outputs": f"a list of: {', '.join(COSTLY_STRUCTURES)}",
    "requests_per_minute": _RATE_TAKES,
    "tokens_per_minute": _RATE_TAKES,
    "tokens_per_day": f"a whole number from 1 to {LARGEST_DAILY}",
    "concurrent_requests": _RATE_TAKES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """The rights of one client. It contains hashes of keys, never keys.

    Attributes:
        digests: SHA-256 of each of the client's keys.
        admin: whether it may use the operators' routes.
        models: models it may use; None for all.
        max_priority: the highest priority it may request.
        requests_per_minute, tokens_per_minute, tokens_per_day: limits for each model; None for unlimited.
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
    tokens_per_day: int | None = None
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
    given = read_entry({"key": entry} if isinstance(entry, str) else entry, _Entry, where, _TAKES)
    try:
        _ = [model_tag(model) for model in given.models or ()]
    except ValueError:
        raise SettingsError(f"{where}: models takes {_TAKES['models']}") from None
    rights = {name: value for name, value in asdict(given).items() if value is not UNSET}
    key, hashes = rights.pop("key", None), rights.pop("hash", None)
    if (key is None) == (hashes is None):
        raise SettingsError(f"{where} needs one of key and hash")
    if key is not None:
        return ApiKey(digests=(digest(key),), weak=is_weak(key), **rights)
    hashes = [hashes] if isinstance(hashes, str) else hashes
    digests = tuple(bytes.fromhex(one.removeprefix("sha256:")) for one in hashes)
    return ApiKey(digests=digests, **rights)
