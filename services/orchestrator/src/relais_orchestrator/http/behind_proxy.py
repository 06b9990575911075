"""Restores requests that come through a proxy: strips its prefix and finds the client's address.

No absolute URL is ever built, so `X-Forwarded-Proto` and `X-Forwarded-Host` have no effect and are not read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp import web
from yarl import URL

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_AMBIGUOUS = re.compile(
    r"(?:/|%2f){2}|\\|%5c|%00|(?:/|%2f)(?:\.|%2e){1,2}(?:/|%2f|;|$)", re.IGNORECASE
)
_MODEL = "/v1/models/"


def is_plain(path: str) -> bool:
    """Return whether every server reads this encoded path in the same way.

    A proxy blocks paths after it has merged slashes, resolved dots and decoded, but passes the original path on. Paths
    that the two may read differently are refused, so that no blocked path has a second name. A model's name may
    contain an encoded slash.
    """
    if _AMBIGUOUS.search(path):
        return False
    return path.startswith(_MODEL) or "%2f" not in path.lower()


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """The proxies whose `X-Forwarded-For` is trusted.

    Attributes:
        everybody: trust any peer; only for a port that nobody but the proxy can reach.
    """

    networks: tuple[Network, ...] = ()
    everybody: bool = False

    @classmethod
    def parse(cls, entries: Iterable[str]) -> TrustedProxies:
        """Parse addresses, networks, or `*`. Raises ValueError."""
        entries = tuple(entries)
        if "*" in entries:
            return cls(everybody=True)
        return cls(tuple(ipaddress.ip_network(entry) for entry in entries))

    def __contains__(self, address: object) -> bool:
        if self.everybody:
            return True
        try:
            known = ipaddress.ip_address(str(address))
        except ValueError:
            return False
        return any(known in network for network in self.networks)

    def client(self, peer: str, forwarded_for: str) -> str:
        """Return the client's address: the last one in the chain that is not a trusted proxy.

        Anybody may have written the addresses before it.
        """
        client = peer
        for hop in reversed(forwarded_for.split(",")):
            if client not in self:
                break
            address = _address(hop.strip())
            if address is None:
                break
            client = address
        return client


def _address(hop: str) -> str | None:
    """Parse an address. Some proxies add a port: `192.0.2.1:4711`, `[2001:db8::1]:4711`."""
    for candidate in (hop, hop.partition("]")[0].removeprefix("["), hop.rpartition(":")[0]):
        try:
            return str(ipaddress.ip_address(candidate))
        except ValueError:
            continue
    return None


@dataclass(frozen=True, slots=True)
class BehindProxy:
    """The proxy configuration of this server.

    Attributes:
        root_path: the prefix under which the proxy serves the API, stripped or not; empty at the root.
    """

    root_path: str = ""
    trusted: TrustedProxies = TrustedProxies()

    def as_meant(self, request: web.BaseRequest) -> web.BaseRequest:
        """Return the request as the client sent it to the proxy."""
        url = request.rel_url
        path = url.raw_path
        if self.root_path and (path == self.root_path or path.startswith(self.root_path + "/")):
            rest = path[len(self.root_path) :] or "/"
            # Not parsed again, because two slashes would start a host.
            meant = URL.build(path=rest, query_string=url.raw_query_string, encoded=True)
            request = request.clone(rel_url=meant)
        if "X-Forwarded-For" in request.headers and request.remote is not None:
            forwarded_for = ",".join(request.headers.getall("X-Forwarded-For"))
            client = self.trusted.client(request.remote, forwarded_for)
            if client != request.remote:
                request = request.clone(remote=client)
        return request
