"""Authentication of requests: bearer keys, and signed tokens for `events_url`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from relais_common.config.api_keys import COSTLY_STRUCTURES, ApiKey, digest
from relais_common.jobs.errors import KeyRevoked, Unauthorized

ANONYMOUS = "anonymous"
_NO_DIGEST = bytes(32)


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated sender of a request, and its rights.

    Attributes:
        digest: hash of the key it presented; None if the key is not from the file.
    """

    key_id: str
    may: ApiKey
    digest: bytes | None = field(default=None, repr=False)


class KeyRing:
    """Maps the key of a request to its client.

    Args:
        any_token: accept a request with any token, or none (`ENV=dev`); without a file of keys (`None`) all of
            these callers are admins.
    """

    def __init__(self, keys: Mapping[str, ApiKey] | None, *, any_token: bool) -> None:
        self._any_token = any_token
        self._stranger = self._with_structures(ApiKey(digests=(), admin=any_token and keys is None))
        self._secret = secrets.token_bytes(32)
        self._clients: dict[str, ApiKey] = {}
        self._callers: dict[bytes, Caller] = {}
        self.replace(keys or {})

    def replace(self, keys: Mapping[str, ApiKey]) -> None:
        """Replace all keys."""
        self._clients = {client: self._with_structures(key) for client, key in keys.items()}
        self._callers = {
            self._place(one): Caller(client, key, one)
            for client, key in self._clients.items()
            for one in key.digests
        }

    def _with_structures(self, key: ApiKey) -> ApiKey:
        """Return the key with default rights filled in: everything in `ENV=dev`, else nothing."""
        if key.structured_outputs is not None:
            return key
        kinds = COSTLY_STRUCTURES if self._any_token else ()
        return replace(key, structured_outputs=frozenset(kinds))

    def identify(self, authorization: str | None, api_key: str | None = None) -> Caller:
        """Return the caller for an `Authorization` header, or else for one of `X-Api-Key`.

        Raises:
            Unauthorized: no key, or an unknown one.
        """
        if not authorization and api_key:
            authorization = f"Bearer {api_key}"
        scheme, _, token = (authorization or "").strip().partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            if self._any_token and not authorization:
                return Caller(ANONYMOUS, self._stranger)
            raise Unauthorized("send your key as Authorization: Bearer KEY, or as X-Api-Key: KEY")
        shown = digest(token)
        found = self._find(shown)
        if found is not None:
            return found
        if self._any_token:
            # Each token is a separate client, identified by its hash.
            return Caller(f"dev-{shown.hex()[:16]}", self._stranger)
        raise Unauthorized("unknown API key")

    def check(self, caller: Caller) -> None:
        """Raise KeyRevoked if the presented key no longer belongs to the caller."""
        if caller.digest is not None:
            now = self._find(caller.digest)
            if now is None or now.key_id != caller.key_id:
                raise KeyRevoked("this key is no longer valid")

    def client(self, key_id: str) -> Caller:
        """Return a client that sends nothing now, with its present rights. Raises KeyRevoked if it has no key."""
        self.check_client(key_id)
        return Caller(key_id, self._clients.get(key_id, self._stranger))

    def check_client(self, key_id: str) -> None:
        """Raise KeyRevoked if the client no longer has any key."""
        if not self._any_token and key_id not in self._clients:
            raise KeyRevoked("this client's keys are no longer valid")

    def _find(self, shown: bytes) -> Caller | None:
        found = self._callers.get(self._place(shown))
        known = _NO_DIGEST if found is None or found.digest is None else found.digest
        return found if hmac.compare_digest(shown, known) else None

    def _place(self, shown: bytes) -> bytes:
        # The look-up position depends on a secret: nobody can choose what a guess is compared with, so the time
        # of a look-up reveals nothing about the keys, and does not grow with their number.
        return hashlib.blake2b(shown, key=self._secret, digest_size=16).digest()


class EventsUrlSigner:
    """Signs tokens that open one channel's events for a while. A browser's EventSource can send no header."""

    def __init__(
        self, secret: bytes, *, ttl_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._secret = secret
        self._ttl_s = ttl_s
        self._clock = clock

    def sign(self, channel_id: str) -> str:
        """Return a token for this channel."""
        expires = int(self._clock() + self._ttl_s)
        return f"{expires}.{self._signature(channel_id, expires)}"

    def opens(self, token: str, channel_id: str) -> bool:
        """Return whether the token is genuine, for this channel, and not expired."""
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
