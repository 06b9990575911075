"""The address of a Redis behind Sentinels. Standard library only.

    redis+sentinel://[[user]:password@]sentinel[:26379][,sentinel[:26379]...]/service[/db][?sentinel_password=...]

`rediss+sentinel://` uses TLS, for the Sentinels too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

SCHEMES = ("redis+sentinel://", "rediss+sentinel://")
_PORT = 26379
HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?"
_FORM = re.compile(
    rf"redis(?P<tls>s?)\+sentinel://(?:(?P<credentials>[^@/]*)@)?(?P<hosts>{HOST}(?:,{HOST})*)"
    r"/(?P<service>[A-Za-z0-9._-]+)(?:/(?P<db>\d+))?(?:\?(?P<query>.*))?"
)


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """The address of a Redis behind Sentinels.

    Attributes:
        sentinels: hosts and ports, asked in turn.
        service: the name under which they monitor the Redis.
        password: of the Sentinels; None if they have none.
        tls: whether all connections use TLS.
        server_url: the URL of the Redis, with the service in place of the host.
    """

    sentinels: tuple[tuple[str, int], ...]
    service: str
    password: str | None = field(repr=False)
    tls: bool
    server_url: str = field(repr=False)


def parse(url: str) -> SentinelAddress:
    """Parse the address. Raises ValueError, without the URL, which may contain a password."""
    match = _FORM.fullmatch(url)
    query = parse_qs(match["query"] or "", strict_parsing=bool(match["query"])) if match else {}
    if match is None or not query.keys() <= {"sentinel_password"}:
        raise ValueError(
            "a Redis behind Sentinels is redis+sentinel://[[user]:password@]host[:port],host[:port]/service[/db]"
        )
    credentials = "" if match["credentials"] is None else f"{match['credentials']}@"
    scheme = f"redis{match['tls']}"
    (password,) = query.get("sentinel_password", [None])
    return SentinelAddress(
        sentinels=split_hosts(match["hosts"], _PORT),
        service=unquote(match["service"]),
        password=password,
        tls=bool(match["tls"]),
        server_url=f"{scheme}://{credentials}{match['service']}/{match['db'] or 0}",
    )


def split_hosts(hosts: str, port: int) -> tuple[tuple[str, int], ...]:
    """Split `host[:port],host[:port]`, each of the form `HOST`; `port` is the default."""
    found = []
    for item in hosts.split(","):
        host, separator, own = item.rpartition(":")
        if not separator or own.endswith("]"):  # an IPv6 address has colons of its own
            host, own = item, str(port)
        found.append((host.strip("[]"), int(own)))
    return tuple(found)
