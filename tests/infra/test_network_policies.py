"""The NetworkPolicies admit what is written here, and nothing else."""

from __future__ import annotations

import pytest

from relais_testing.manifests import Rendered
from relais_testing.network import Peer, admitted, flows

NAMESPACE = "relais"
METADATA = "169.254.169.254"
"""Where clouds tell machines their credentials."""

WORLD = (
    Peer("keda", "10.244.9.1", "keda", {"app": "keda-operator"}),
    Peer("prometheus", "10.244.9.2", "monitoring", {"app": "prometheus"}),
    Peer("ingress controller", "10.244.9.3", "ingress-nginx", {"app": "nginx"}),
    Peer(
        "a stranger's pod", "10.244.9.4", "default", {"relais/reaches-redis": "true"}, (443, 8000)
    ),
    Peer("our pod without a label", "10.244.9.5", NAMESPACE, {}, (443, 8000)),
    Peer("the internet", "203.0.113.9", None, {}, (22, 80, 443, 6379, 8000, 27017)),
    Peer("a private network", "10.1.2.3", None, {}, (22, 80, 443, 6379, 8000, 27017)),
    Peer("cloud metadata", METADATA, None, {}, (80, 443)),
    Peer("outer redis", "192.0.2.1", None, {}, (22, 6379)),
    Peer("outer mongodb", "192.0.2.17", None, {}, (22, 27017)),
    Peer("a server of LLM_TABLE", "192.0.2.33", None, {}, (22, 8000)),
)

METRICS = {
    ("keda", "orchestrator", 8080),
    ("prometheus", "orchestrator", 8080),
    ("prometheus", "llm-worker", 8081),
    ("prometheus", "embedding-worker", 8085),
}
REDIS = {(name, "redis", 6379) for name in ("orchestrator", "llm-worker", "embedding-worker")}
MONGODB = {(name, "mongodb", 27017) for name in ("orchestrator", "kpi")}
# The documentation's addresses count as the internet: the hub's may be any.
HUB = {(name, "the internet", 443) for name in ("llm-worker", "embedding-worker")}
FROM_ANYWHERE = {
    (source, "orchestrator", 8080)
    for source in (*(peer.name for peer in WORLD if peer.namespace != NAMESPACE),)
}

ADMITTED = {
    "minikube-cpu": METRICS | REDIS | MONGODB | FROM_ANYWHERE,
    "minikube-gpu": METRICS | REDIS | MONGODB | FROM_ANYWHERE | HUB,
    "production": METRICS
    | HUB
    | {("prometheus", "remote-worker", 8081), ("ingress controller", "orchestrator", 8080)}
    | {
        (name, "outer redis", 6379)
        for name in ("orchestrator", "llm-worker", "embedding-worker", "remote-worker")
    }
    | {(name, "outer mongodb", 27017) for name in ("orchestrator", "kpi")}
    | {("remote-worker", "a server of LLM_TABLE", 8000)},
}


def peers_of(overlay: Rendered) -> list[Peer]:
    pods = [
        Peer(name, f"10.244.0.{index}", NAMESPACE, one.labels, (*one.ports.values(), 443, 8000))
        for index, (name, one) in enumerate(overlay.workloads.items(), start=1)
    ]
    return [*pods, *WORLD]


def test_what_is_named_is_admitted_and_nothing_else(overlay: Rendered) -> None:
    policies = overlay.of("NetworkPolicy")

    assert flows(policies, NAMESPACE, peers_of(overlay)) == ADMITTED[overlay.name]


def test_every_pod_may_ask_for_names(overlay: Rendered) -> None:
    policies = overlay.of("NetworkPolicy")
    dns = Peer("dns", "10.244.9.6", "kube-system", {"k8s-app": "kube-dns"}, (53,))
    other = Peer("other", "10.244.9.7", "kube-system", {}, (53,))

    for pod in peers_of(overlay):
        if pod.namespace == NAMESPACE:
            assert admitted(policies, NAMESPACE, pod, dns, 53, "UDP")
            assert admitted(policies, NAMESPACE, pod, dns, 53, "TCP")
            assert not admitted(policies, NAMESPACE, pod, other, 53, "UDP")


@pytest.mark.parametrize("missing", ["deny-all", "redis", "mongodb"])
def test_a_missing_policy_is_seen(every_overlay: dict[str, Rendered], missing: str) -> None:
    overlay = every_overlay["minikube-cpu"]
    policies = [one for one in overlay.of("NetworkPolicy") if one["metadata"]["name"] != missing]

    assert flows(policies, NAMESPACE, peers_of(overlay)) != ADMITTED[overlay.name]


def test_policies_name_ports_by_number(overlay: Rendered) -> None:
    """Not every network plugin knows a pod's names for them."""
    for policy in overlay.of("NetworkPolicy"):
        for rule in (*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])):
            assert all(isinstance(port["port"], int) for port in rule["ports"])
