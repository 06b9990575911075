"""A cluster of the size that `bootstrap.sh minikube` asks for has room for all that may run at once."""

from __future__ import annotations

import re

import pytest

from relais_testing.manifests import OVERLAYS, ROOT, Rendered, Workload

LOCAL = [name for name in OVERLAYS if name.startswith("minikube-")]

# What else requests room there (millicores, MiB). Kubernetes and Calico: API server 250, controllers 200, scheduler,
# etcd (100 MiB), CoreDNS (70 MiB) and metrics-server (200 MiB) 100 each, calico-node 250. KEDA: three pods of 100 and
# 100 MiB.
CLUSTER_CPU_M = 1100 + 300
CLUSTER_MEMORY_MIB = 370 + 300


def in_millicores(quantity: str) -> int:
    return int(quantity[:-1]) if quantity.endswith("m") else int(quantity) * 1000


def in_mib(quantity: str) -> int:
    number, unit = int(quantity[:-2]), quantity[-2:]
    return number * {"Mi": 1, "Gi": 1024}[unit]


def default_of(setting: str) -> int:
    script = (ROOT / "scripts" / "lib" / "minikube.sh").read_text()
    found = re.search(rf"^{setting}=\$\{{RELAIS_{setting}:-(\d+)\}}$", script, re.MULTILINE)
    assert found
    return int(found[1])


def most_pods(overlay: Rendered, workload: Workload) -> int:
    """As many as its autoscaler may ask for, and those that a rollout starts before it ends others."""
    spec = workload.manifest["spec"]
    pods: int = spec.get("replicas", 1)
    for scaler in overlay.of("HorizontalPodAutoscaler", "ScaledObject"):
        if scaler["spec"]["scaleTargetRef"]["name"] == workload.name:
            pods = scaler["spec"].get("maxReplicas") or scaler["spec"]["maxReplicaCount"]
    if workload.manifest["kind"] == "Deployment":
        pods += spec["strategy"]["rollingUpdate"]["maxSurge"]
    return pods


@pytest.mark.parametrize("name", LOCAL)
def test_all_pods_of_a_rollout_at_full_scale_fit(
    every_overlay: dict[str, Rendered], name: str
) -> None:
    overlay = every_overlay[name]
    cpu_m, memory_mib = CLUSTER_CPU_M, CLUSTER_MEMORY_MIB
    for workload in overlay.workloads.values():
        requests = workload.container["resources"]["requests"]
        pods = most_pods(overlay, workload)
        cpu_m += pods * in_millicores(requests["cpu"])
        memory_mib += pods * in_mib(requests["memory"])
    assert cpu_m <= 1000 * default_of("MINIKUBE_CPUS")
    assert memory_mib <= default_of("MINIKUBE_MEMORY_MB")
