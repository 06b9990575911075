"""Pods start when they can, live while they do, and have the time that a drain takes."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from relais_common.runtime.health import add_health_routes
from relais_testing.manifest_settings import servers, settings_of
from relais_testing.manifests import Rendered

CLOSES_S = {"orchestrator": 3, "llm-worker": 8, "remote-worker": 3, "embedding-worker": 3}
"""From the end of DRAIN_S to that of the process: an orchestrator gives the last requests an error (2 s) and closes
(1 s); a worker hands back (3 s), and its engine shuts down (5 s)."""


def test_probes_ask_what_the_services_answer(overlay: Rendered) -> None:
    async def ready() -> str | None:
        return None

    app = web.Application()
    add_health_routes(app, ready)
    answered = {resource.canonical for resource in app.router.resources()}

    for workload in servers(overlay):
        environment = overlay.environment(workload)
        (port,) = workload.ports.items()
        assert port[1] == int(environment.get("API_PORT") or environment["HEALTH_PORT"])
        assert (environment.get("API_HOST") or environment["HEALTH_HOST"]) == "0.0.0.0"
        asked = {}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = workload.container[kind]["httpGet"]
            assert get["port"] == port[0]
            assert get["path"] in answered
            asked[kind] = get["path"]
        # A process that lives is never killed for what it waits for.
        assert asked["livenessProbe"] == "/healthz"
        assert asked["readinessProbe"] == "/readyz"


def test_a_model_has_its_time_to_load(overlay: Rendered) -> None:
    at_least_s = {"llm-worker": 3600, "embedding-worker": 900}
    for name, seconds in at_least_s.items():
        workload = overlay.workloads[name]
        probe = workload.container["startupProbe"]
        assert probe["httpGet"]["path"] == "/readyz"
        assert probe["periodSeconds"] * probe["failureThreshold"] >= seconds
    progress_s = overlay.workloads["llm-worker"].manifest["spec"]["progressDeadlineSeconds"]
    assert progress_s >= at_least_s["llm-worker"]


def test_grace_outlasts_the_drain(overlay: Rendered, tmp_path: Path) -> None:
    for workload in servers(overlay):
        settings = settings_of(overlay, workload.name, tmp_path)
        drain_s = settings.drain_s if workload.name == "orchestrator" else settings.service.drain_s
        pre_stop_s = (
            workload.container.get("lifecycle", {})
            .get("preStop", {})
            .get("sleep", {})
            .get("seconds", 0)
        )
        needed_s = pre_stop_s + drain_s + CLOSES_S[workload.name]
        assert workload.pod["terminationGracePeriodSeconds"] >= needed_s + 5, workload.name


def test_orchestrators_take_connections_until_proxies_know(overlay: Rendered) -> None:
    orchestrator = overlay.workloads["orchestrator"]

    assert orchestrator.container["lifecycle"]["preStop"]["sleep"]["seconds"] > 0
