"""The address of a Redis Cluster. Standard library only.

    redis+cluster://[[user]:password@]host[:6379][,host[:6379]...]

Any node will do, because each names the others. `rediss+cluster://` uses TLS for all nodes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from relais_common.queue.client.sentinels import HOST, split_hosts

SCHEMES = ("redis+cluster://", "rediss+cluster://")
_PORT = 6379
_FORM = re.compile(
    rf"redis(?P<tls>s?)\+cluster://(?:(?P<credentials>[^@/]*)@)?(?P<hosts>{HOST}(?:,{HOST})*)/?"
)


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """The address of a cluster.

    Attributes:
        nodes: hosts and ports of the nodes to ask first.
    """

    nodes: tuple[tuple[str, int], ...]
    _prefix: str = field(repr=False)

    def url_of(self, node: tuple[str, int]) -> str:
        """Return the URL of a node."""
        host, port = node
        return f"{self._prefix}{f'[{host}]' if ':' in host else host}:{port}"


def parse(url: str) -> ClusterAddress:
    """Parse the address. Raises ValueError, without the URL, which may contain a password."""
    match = _FORM.fullmatch(url)
    if match is None:
        raise ValueError(
            "a Redis Cluster is redis+cluster://[[user]:password@]host[:port],host[:port]"
        )
    credentials = "" if match["credentials"] is None else f"{match['credentials']}@"
    nodes = split_hosts(match["hosts"], _PORT)
    return ClusterAddress(nodes, f"redis{match['tls']}://{credentials}")
