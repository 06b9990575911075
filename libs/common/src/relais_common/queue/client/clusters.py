"""The address of a Redis Cluster. Standard library only.

    redis+cluster://[[user]:password@]host[:6379][,host[:6379]...]

Any of its nodes will do: they name the others. `rediss+cluster://` speaks TLS, to all of them.
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
    """Whom to ask at first, and how to reach any of its nodes.

    Attributes:
        nodes: hosts and ports.
    """

    nodes: tuple[tuple[str, int], ...]
    _prefix: str = field(repr=False)

    def url_of(self, node: tuple[str, int]) -> str:
        """A node's own URL."""
        host, port = node
        return f"{self._prefix}{f'[{host}]' if ':' in host else host}:{port}"


def parse(url: str) -> ClusterAddress:
    """Raises ValueError, which does not show the URL: it may have a password."""
    match = _FORM.fullmatch(url)
    if match is None:
        raise ValueError(
            "a Redis Cluster is redis+cluster://[[user]:password@]host[:port],host[:port]"
        )
    credentials = "" if match["credentials"] is None else f"{match['credentials']}@"
    nodes = split_hosts(match["hosts"], _PORT)
    return ClusterAddress(nodes, f"redis{match['tls']}://{credentials}")
