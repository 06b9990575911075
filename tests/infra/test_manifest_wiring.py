"""Selectors, services, autoscalers and the Ingress lead where they should."""

from __future__ import annotations

from relais_orchestrator.api.route import Access
from relais_orchestrator.api.table import ROUTES
from relais_testing.manifest_settings import servers
from relais_testing.manifests import Rendered, selects, texts


def test_every_selector_finds_its_pods(overlay: Rendered) -> None:
    for workload in overlay.workloads.values():
        selector = workload.manifest["spec"].get("selector")
        if selector is not None:
            assert overlay.selected(selector) == [workload.name]
        for spread in workload.pod.get("topologySpreadConstraints", []):
            assert selects(spread["labelSelector"], workload.labels)
    for budget in overlay.of("PodDisruptionBudget"):
        assert overlay.selected(budget["spec"]["selector"]) == [budget["metadata"]["name"]]
    for policy in overlay.of("NetworkPolicy"):
        assert overlay.selected(policy["spec"]["podSelector"]), policy["metadata"]["name"]


def test_every_volume_is_one_and_every_mount_has_one(overlay: Rendered) -> None:
    """A patch that adds a source to a volume leaves the old one there; only an API server would refuse both."""
    for workload in overlay.workloads.values():
        volumes = {volume["name"]: volume.keys() - {"name"} for volume in workload.pod["volumes"]}
        assert all(len(sources) == 1 for sources in volumes.values()), (workload.name, volumes)
        claimed = {
            one["metadata"]["name"]
            for one in workload.manifest["spec"].get("volumeClaimTemplates", [])
        }
        mounts = [mount["name"] for mount in workload.container["volumeMounts"]]
        paths = [mount["mountPath"] for mount in workload.container["volumeMounts"]]
        assert volumes.keys() | claimed == set(mounts)
        assert len(paths) == len(set(paths))


def test_what_is_referred_to_is_there(overlay: Rendered) -> None:
    for workload in overlay.workloads.values():
        overlay.environment(workload)
        for volume in workload.pod["volumes"]:
            if "secret" in volume:
                overlay.one("Secret", volume["secret"]["secretName"])
            if "configMap" in volume:
                overlay.one("ConfigMap", volume["configMap"]["name"])
            if "persistentVolumeClaim" in volume:
                overlay.one("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
    for one in overlay.of("HorizontalPodAutoscaler", "ScaledObject"):
        target = one["spec"]["scaleTargetRef"]
        overlay.one(target.get("kind", "Deployment"), target["name"])
    for ingress in overlay.of("Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = overlay.one("Service", path["backend"]["service"]["name"])
                names = [port["name"] for port in service["spec"]["ports"]]
                assert path["backend"]["service"]["port"]["name"] in names


def test_every_service_leads_to_a_port(overlay: Rendered) -> None:
    for service in overlay.of("Service"):
        (name,) = overlay.selected({"matchLabels": service["spec"]["selector"]})
        for port in service["spec"]["ports"]:
            assert overlay.workloads[name].ports[port["targetPort"]] == port["port"]
    for workload in overlay.of("StatefulSet"):
        overlay.one("Service", workload["spec"]["serviceName"])


def test_servers_are_spread_and_moved_one_at_a_time(overlay: Rendered) -> None:
    for workload in servers(overlay):
        assert workload.pod["topologySpreadConstraints"]
        budget = overlay.one("PodDisruptionBudget", workload.name)
        assert budget["spec"]["maxUnavailable"] == 1


def test_autoscalers_own_the_number_of_what_they_scale(overlay: Rendered) -> None:
    scalers = overlay.of("HorizontalPodAutoscaler", "ScaledObject")
    targets = [one["spec"]["scaleTargetRef"]["name"] for one in scalers]

    assert sorted(targets) == ["embedding-worker", "llm-worker", "orchestrator"]
    for name in targets:
        assert "replicas" not in overlay.workloads[name].manifest["spec"]
    hpa = overlay.one("HorizontalPodAutoscaler", "orchestrator")
    assert hpa["spec"]["minReplicas"] >= 2  # the queues' lengths are asked of them


def test_scaled_objects_ask_an_orchestrator_and_never_fall_back(overlay: Rendered) -> None:
    service = overlay.one("Service", "orchestrator")
    address = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    for one in overlay.of("ScaledObject"):
        (trigger,) = one["spec"]["triggers"]
        assert trigger["metadata"]["url"] == (
            f"http://{address}:{service['spec']['ports'][0]['port']}/metrics"
        )
        # KEDA scales to zero where a number cannot be had and the fallback is 0; without one it leaves all as it is.
        assert "fallback" not in one["spec"]
        assert one["spec"]["minReplicaCount"] == 0
        drain_s = overlay.workloads[one["metadata"]["name"]].pod["terminationGracePeriodSeconds"]
        assert one["spec"]["cooldownPeriod"] > drain_s


def test_kpi_job_runs_one_at_a_time(overlay: Rendered) -> None:
    job = overlay.one("CronJob", "kpi")["spec"]

    assert job["concurrencyPolicy"] == "Forbid"
    assert job["jobTemplate"]["spec"]["activeDeadlineSeconds"] <= 3600


def test_a_tunnel_finds_the_api(overlay: Rendered) -> None:
    kind = overlay.one("Service", "orchestrator")["spec"].get("type", "ClusterIP")

    assert kind == ("ClusterIP" if overlay.name == "production" else "LoadBalancer")


def test_ingress_passes_on_the_public_paths_alone(every_overlay: dict[str, Rendered]) -> None:
    overlay = every_overlay["production"]
    rules = [rule for ingress in overlay.of("Ingress") for rule in ingress["spec"]["rules"]]
    public = [path for rule in rules for path in rule["http"]["paths"]]
    paths = [one["path"].split("/") for one in public]
    assert {one["pathType"] for one in public} == {"Prefix"}

    def passes(path: str) -> bool:
        parts = path.split("/")
        return any(parts[: len(prefix)] == prefix for prefix in paths)

    for route in ROUTES:
        inside = route.access is Access.ADMIN or route.path in ("/healthz", "/readyz", "/metrics")
        assert passes(route.template) is not inside, route.path
    assert passes("/docs/start.js")


def test_production_serves_keys_only(every_overlay: dict[str, Rendered]) -> None:
    environment = every_overlay["production"].environment(
        every_overlay["production"].workloads["orchestrator"]
    )

    assert environment["ENV"] == "prod"
    assert every_overlay["production"].mounted_file(
        every_overlay["production"].workloads["orchestrator"], environment["API_KEYS"]
    )
    assert not any(
        "redis" in name or "mongodb" in name for name in every_overlay["production"].workloads
    )
    assert "change-me" not in "".join(
        text
        for one in every_overlay["production"].manifests
        if one["kind"] != "Secret"
        for text in texts(one)
    )
