"""What NetworkPolicies admit, by Kubernetes's rules, as far as ours use them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from relais_testing.manifests import Manifest, selects


@dataclass(frozen=True)
class Peer:
    """A pod, or an address outside the cluster (no namespace)."""

    name: str
    ip: str
    namespace: str | None = None
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    ports: tuple[int, ...] = ()


def admitted(
    policies: Sequence[Manifest],
    namespace: str,
    source: Peer,
    target: Peer,
    port: int,
    protocol: str,
) -> bool:
    """Return whether the policies of source and target admit a connection."""
    return _may(policies, namespace, source, target, port, protocol, "Egress") and _may(
        policies, namespace, target, source, port, protocol, "Ingress"
    )


def flows(
    policies: Sequence[Manifest], namespace: str, peers: Iterable[Peer]
) -> set[tuple[str, str, int]]:
    """Return all connections admitted into or out of the namespace, over any port of a peer."""
    peers = list(peers)
    found = set()
    for source in peers:
        for target in peers:
            if source is target or namespace not in (source.namespace, target.namespace):
                continue
            for port in target.ports:
                if admitted(policies, namespace, source, target, port, "TCP"):
                    found.add((source.name, target.name, port))
    return found


def _may(
    policies: Sequence[Manifest],
    namespace: str,
    subject: Peer,
    other: Peer,
    port: int,
    protocol: str,
    direction: str,
) -> bool:
    if subject.namespace != namespace:
        return True  # not ours to say
    key, peer_key = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    about = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], subject.labels)
    ]
    if not about:
        return True
    return any(
        _rule_admits(rule, peer_key, namespace, other, port, protocol)
        for spec in about
        for rule in spec.get(key, [])
    )


def _rule_admits(
    rule: Manifest, peer_key: str, namespace: str, other: Peer, port: int, protocol: str
) -> bool:
    ports = rule.get("ports")
    if ports is not None and not any(
        one["port"] == port and one.get("protocol", "TCP") == protocol for one in ports
    ):
        return False
    peers = rule.get(peer_key)
    return peers is None or any(_is(peer, namespace, other) for peer in peers)


def _is(peer: Manifest, namespace: str, other: Peer) -> bool:
    if "ipBlock" in peer:
        block, address = peer["ipBlock"], ip_address(other.ip)
        # Whether a block has pods' addresses too is up to the network plugin: here it has.
        return address in ip_network(block["cidr"]) and not any(
            address in ip_network(one) for one in block.get("except", [])
        )
    if other.namespace is None:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace}):
            return False
    elif other.namespace != namespace:
        return False
    return selects(peer.get("podSelector", {}), other.labels)
