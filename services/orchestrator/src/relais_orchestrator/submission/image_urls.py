"""Fetches images from hosts that this deployment allows, before their request is queued."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from weakref import WeakValueDictionary

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from yarl import URL

from relais_common.jobs.errors import InvalidRequest
from relais_orchestrator.api.schemas.images import MAX_IMAGE_BYTES, data_url

TIMEOUT_S = 10.0
"""Of all images of a request together."""

MAX_REDIRECTS = 3
AT_ONCE = 4
"""Images that are fetched at once for one key."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


class ImageFetcher:
    """Fetches images of allowed hosts that have public addresses.

    Args:
        hosts: `host`, for the ports of http and https, or `host:port`.
        max_bytes: of one request's images together.
        allow_private: also from private addresses.
    """

    def __init__(
        self, hosts: Collection[str], *, max_bytes: int, allow_private: bool = False
    ) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._max_bytes = max_bytes
        self._allow_private = allow_private
        self._places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def fetch(self, key_id: str, addresses: dict[str, str]) -> dict[str, str]:
        """Return the images as data URLs.

        Args:
            key_id: whose request it is.
            addresses: by the path of the image's field.

        Raises:
            InvalidRequest: names the first image that was not fetched.
        """
        fetched: dict[str, str] = {}
        left = self._max_bytes
        place = self._places.setdefault(key_id, asyncio.Semaphore(AT_ONCE))
        async with (
            place,
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=DefaultResolver() if self._allow_private else _PublicResolver()
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                # No compression: a megabyte may hold a gigabyte.
                headers={"Accept-Encoding": "identity", "User-Agent": "relais"},
                auto_decompress=False,
            ) as session,
        ):
            path = ""
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    for path, address in addresses.items():
                        image = await self._fetch(session, path, address, left)
                        left -= len(image)
                        url = data_url(image)
                        if url is None:
                            raise _refusal(path, "it is not PNG, JPEG, WebP or GIF")
                        fetched[path] = url
            except TimeoutError:
                raise _refusal(path, f"it took more than {TIMEOUT_S:g} s") from None
            except (aiohttp.ClientError, OSError, ValueError):
                # Why would tell about the network here.
                raise _refusal(path, "its host did not send it") from None
        return fetched

    async def _fetch(
        self, session: aiohttp.ClientSession, path: str, address: str, left: int
    ) -> bytes:
        url = URL(address)
        for _ in range(MAX_REDIRECTS + 1):
            self._require_allowed(path, url)
            async with session.get(url, allow_redirects=False) as response:
                if 300 <= response.status < 400 and "Location" in response.headers:
                    url = url.join(URL(response.headers["Location"]))
                    continue
                if response.status != 200:
                    raise _refusal(path, f"its host answered {response.status}")
                image = bytearray()
                async for piece in response.content.iter_any():
                    image += piece
                    if len(image) > min(left, MAX_IMAGE_BYTES):
                        raise _refusal(path, "it is too large")
                return bytes(image)
        raise _refusal(path, "its host redirects too often")

    def _require_allowed(self, path: str, url: URL) -> None:
        host, port = (url.host or "").lower(), url.port
        is_usual = port == _DEFAULT_PORTS.get(url.scheme)
        allowed = f"{host}:{port}" in self._hosts or (is_usual and host in self._hosts)
        if url.scheme not in _DEFAULT_PORTS or not allowed:
            raise InvalidRequest(
                f"{path}: images are not fetched from there; send a data URL:"
                " data:image/png;base64,...",
                param=path,
                code="unsupported_value",
            )
        # Addresses as hosts reach no resolver.
        if not self._allow_private and _is_address(host) and not _is_public(host):
            raise _refusal(path, "its host did not send it")


class _PublicResolver(AbstractResolver):
    """Resolves names, but to no address of a private network: a name may point anywhere."""

    def __init__(self) -> None:
        self._resolver = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if not all(_is_public(one["host"]) for one in found):
            raise OSError("a private address")
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_public(host: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    address = address if mapped is None else mapped
    return address.is_global and not address.is_multicast


def _refusal(path: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: this image could not be fetched: {why}", param=path)
