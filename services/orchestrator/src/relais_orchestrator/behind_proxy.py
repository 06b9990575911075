"""Requests as the client meant them, where a proxy passes them on: without its prefix, with the client's address.

No absolute URL is ever made, so `X-Forwarded-Proto` and `X-Forwarded-Host` would change nothing, and are not read.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp import web
from yarl import URL

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """Whose `X-Forwarded-For` is believed.

    Attributes:
        everybody: whoever connects; only for a port that none but the proxy can reach.
    """

    networks: tuple[Network, ...] = ()
    everybody: bool = False

    @classmethod
    def parse(cls, entries: Iterable[str]) -> TrustedProxies:
        """Addresses, networks, or `*`. Raises ValueError."""
        entries = tuple(entries)
        if "*" in entries:
            return cls(everybody=True)
        return cls(tuple(ipaddress.ip_network(entry) for entry in entries))

    def __contains__(self, address: str) -> bool:
        if self.everybody:
            return True
        try:
            known = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(known in network for network in self.networks)

    def client(self, peer: str, forwarded_for: str) -> str:
        """The client's address: the last of the chain that no trusted proxy vouches for.

        What stands left of it anybody may have written.
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
    """Some proxies write a port, too: `192.0.2.1:4711`, `[2001:db8::1]:4711`."""
    for candidate in (hop, hop.partition("]")[0].removeprefix("["), hop.rpartition(":")[0]):
        try:
            return str(ipaddress.ip_address(candidate))
        except ValueError:
            continue
    return None


@dataclass(frozen=True, slots=True)
class BehindProxy:
    """What stands in front of this server.

    Attributes:
        root_path: the prefix under which it serves us, whether or not it takes it off; empty at the root.
    """

    root_path: str = ""
    trusted: TrustedProxies = TrustedProxies()

    def as_meant(self, request: web.BaseRequest) -> web.BaseRequest:
        """The request that the client sent to the proxy."""
        path = request.rel_url.raw_path
        if self.root_path and (path == self.root_path or path.startswith(self.root_path + "/")):
            rest = request.raw_path[len(self.root_path) :]
            meant = URL(rest if rest.startswith("/") else "/" + rest, encoded=True)
            request = request.clone(rel_url=meant)
        if "X-Forwarded-For" in request.headers and request.remote is not None:
            forwarded_for = ",".join(request.headers.getall("X-Forwarded-For"))
            client = self.trusted.client(request.remote, forwarded_for)
            if client != request.remote:
                request = request.clone(remote=client)
        return request
