"""Whose request it is: bearer keys from a JSON file, and signed tokens for `events_url`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from relais_common.errors import SettingsError, Unauthorized

ANONYMOUS = "anonymous"
_KEY_ID = re.compile(r"[\w.@:+-]{1,128}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A client's key, and whether it opens the operators' routes."""

    key: str = field(repr=False)
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request."""

    key_id: str
    admin: bool


def read_api_keys(path: Path) -> dict[str, ApiKey]:
    """Client names and their keys, from a file `{"client1": "key", "ops": {"key": "key", "admin": true}}`.

    Raises:
        SettingsError: the file is missing or has another form. Its content is not repeated.
    """
    try:
        entries = orjson.loads(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"API_KEYS: cannot read {path}: {error.strerror}") from None
    except orjson.JSONDecodeError:
        raise SettingsError(f"API_KEYS: {path} is not JSON") from None
    if not isinstance(entries, dict) or not entries:
        raise SettingsError(f'API_KEYS: {path} is not an object like {{"client1": "key"}}')
    for client in entries:
        if not _KEY_ID.fullmatch(client):
            raise SettingsError(
                f"API_KEYS: {path}: a client's name has 1 to 128 letters, digits or any of . _ @ : + -"
            )
    return {client: _read_api_key(path, client, entry) for client, entry in entries.items()}


def _read_api_key(path: Path, client: str, entry: Any) -> ApiKey:
    if isinstance(entry, dict):
        unknown = entry.keys() - {"key", "admin"}
        admin = entry.get("admin", False)
        if unknown or not isinstance(admin, bool):
            raise SettingsError(
                f"API_KEYS: {path}: the entry of {client!r} takes a key and, as true or false, admin"
            )
        entry = entry.get("key")
    else:
        admin = False
    if not isinstance(entry, str) or not entry:
        raise SettingsError(f"API_KEYS: {path}: the key of {client!r} is not a text")
    return ApiKey(entry, admin=admin)


def _digest(key: str) -> bytes:
    # Bytes of a header that are no UTF-8 come as lone surrogates.
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


class KeyRing:
    """Tells whose key a request carries.

    Args:
        any_token: accept a request with any token, or none (`ENV=dev`); without a single key all of these callers are
            admins.
    """

    def __init__(self, keys: Mapping[str, ApiKey], *, any_token: bool) -> None:
        self._callers = [
            (Caller(client, one.admin), _digest(one.key)) for client, one in keys.items()
        ]
        self._any_token = any_token
        self._all_admins = any_token and not keys

    def identify(self, authorization: str | None) -> Caller:
        """Who is behind an `Authorization` header.

        Raises:
            Unauthorized: no key, or an unknown one.
        """
        scheme, _, token = (authorization or "").strip().partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            if self._any_token and not authorization:
                return Caller(ANONYMOUS, self._all_admins)
            raise Unauthorized("send your key as Authorization: Bearer KEY")
        # Every key is compared, in constant time: how long it takes tells nothing.
        digest, found = _digest(token), None
        for caller, known in self._callers:
            if hmac.compare_digest(digest, known):
                found = caller
        if found is not None:
            return found
        if self._any_token:
            # Each token is a client of its own, told apart without keeping it.
            return Caller(f"dev-{digest.hex()[:16]}", self._all_admins)
        raise Unauthorized("this key is not known")


class EventsUrlSigner:
    """Tokens that open one channel's events for a while: a browser's EventSource can send no header."""

    def __init__(
        self, secret: bytes, *, ttl_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._secret = secret
        self._ttl_s = ttl_s
        self._clock = clock

    def sign(self, channel_id: str) -> str:
        """A token for this channel."""
        expires = int(self._clock() + self._ttl_s)
        return f"{expires}.{self._signature(channel_id, expires)}"

    def opens(self, token: str, channel_id: str) -> bool:
        """Whether the token is genuine, for this channel, and still good."""
        expires, _, signature = token.partition(".")
        if not (expires.isascii() and expires.isdigit() and len(expires) < 16):
            return False
        genuine = hmac.compare_digest(
            self._signature(channel_id, int(expires)).encode(),
            signature.encode(errors="surrogateescape"),
        )
        return genuine and int(expires) >= self._clock()

    def _signature(self, channel_id: str, expires: int) -> str:
        digest = hmac.digest(self._secret, f"{channel_id}\n{expires}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
