"""Whose request it is: bearer keys from a JSON file, and signed tokens for `events_url`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

from relais_common.errors import SettingsError, Unauthorized

ANONYMOUS = "anonymous"
_KEY_ID = re.compile(r"[\w.@:+-]{1,128}")


def read_api_keys(path: Path) -> dict[str, str]:
    """Client names and their keys, from a file `{"client1": "key", ...}`.

    Raises:
        SettingsError: the file is missing or has another form. Its content is not repeated.
    """
    try:
        keys = orjson.loads(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"API_KEYS: cannot read {path}: {error.strerror}") from None
    except orjson.JSONDecodeError:
        raise SettingsError(f"API_KEYS: {path} is not JSON") from None
    if not isinstance(keys, dict) or not keys:
        raise SettingsError(f'API_KEYS: {path} is not an object like {{"client1": "key"}}')
    for client, key in keys.items():
        if not _KEY_ID.fullmatch(client):
            raise SettingsError(
                f"API_KEYS: {path}: a client's name has 1 to 128 letters, digits or any of . _ @ : + -"
            )
        if not isinstance(key, str) or not key:
            raise SettingsError(f"API_KEYS: {path}: the key of {client!r} is not a text")
    return keys


def _digest(key: str) -> bytes:
    # Bytes of a header that are no UTF-8 come as lone surrogates.
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


class KeyRing:
    """Tells whose key a request carries.

    Args:
        any_token: accept a request with any token, or none (`ENV=dev`).
    """

    def __init__(self, keys: Mapping[str, str], *, any_token: bool) -> None:
        self._digests = [(client, _digest(key)) for client, key in keys.items()]
        self._any_token = any_token

    def identify(self, authorization: str | None) -> str:
        """The key id behind an `Authorization` header.

        Raises:
            Unauthorized: no key, or an unknown one.
        """
        scheme, _, token = (authorization or "").strip().partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            if self._any_token and not authorization:
                return ANONYMOUS
            raise Unauthorized("send your key as Authorization: Bearer KEY")
        # Every key is compared, in constant time: how long it takes tells nothing.
        digest, found = _digest(token), None
        for client, known in self._digests:
            if hmac.compare_digest(digest, known):
                found = client
        if found is not None:
            return found
        if self._any_token:
            # Each token is a client of its own, told apart without keeping it.
            return f"dev-{digest.hex()[:16]}"
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
