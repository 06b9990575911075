"""Names, ports, users and bounds agree between compose, Dockerfiles, code and manifests."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
import yaml

import relais_embedding_worker.settings
import relais_llm_worker.settings
import relais_orchestrator.settings
from relais_orchestrator.api.table import ROUTES
from relais_testing.compose import COMPOSE, OURS, env_file, environment, fill, services
from relais_testing.manifests import ROOT, Rendered

GIB = 1 << 30


def dockerfile(name: str) -> str:
    return (ROOT / "services" / OURS[name] / "Dockerfile").read_text()


def stage(name: str) -> str:
    """The last stage of the Dockerfile that the service's image is."""
    target = services()[name]["build"].get("target", name)
    stages = re.split(r"^FROM ", dockerfile(name), flags=re.MULTILINE)
    (found,) = [one for one in stages if re.match(rf"\S+ AS {target}\n", one)]
    return found


def size_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([kmg])b?", text)
    assert match, text
    return int(match[1]) << {"k": 10, "m": 20, "g": 30}[match[2]]


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


def test_images_have_the_names_that_are_built_and_deployed(
    every_overlay: dict[str, Rendered],
) -> None:
    printed = subprocess.run(
        [str(ROOT / "scripts" / "build_images.sh"), "--print", "all"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    ).stdout.split()
    composed = {fill(services()[name]["image"], {}) for name in OURS}
    deployed = {
        workload.container["image"]
        for name, overlay in every_overlay.items()
        if name.startswith("minikube")
        for workload in overlay.workloads.values()
        if "relais-" in workload.container["image"]
    }

    assert set(printed) == composed
    assert deployed <= composed


def test_others_images_are_the_same_as_in_the_manifests(every_overlay: dict[str, Rendered]) -> None:
    workloads = every_overlay["minikube-cpu"].workloads
    for name in ("redis", "mongodb"):
        assert services()[name]["image"] == workloads[name].container["image"]


@pytest.mark.parametrize("name", OURS)
def test_an_image_says_the_ports_that_the_code_has(name: str) -> None:
    text = stage(name)
    if name == "kpi":
        assert "HEALTHCHECK NONE" in text
        assert "EXPOSE" not in text
        return
    setting = "API_PORT" if name == "orchestrator" else "HEALTH_PORT"
    default = {
        "orchestrator": relais_orchestrator.settings.read_settings({}).port,
        "embedding_worker": relais_embedding_worker.settings.read_settings({}).service.health_port,
        "llm_worker": relais_llm_worker.settings.read_settings({}).service.health_port,
    }[OURS[name]]

    assert re.search(rf"{setting}=(\d+)", text)[1] == str(default)  # type: ignore[index]
    assert re.search(r"EXPOSE (\d+)", text)[1] == str(default)  # type: ignore[index]
    assert f'"relais_common.runtime.probe", "{setting}"' in text


@pytest.mark.parametrize("name", OURS)
def test_what_is_not_set_leaves_the_image_s_own_in_place(name: str) -> None:
    """The engine takes a variable that is passed on, and set nowhere, away from the container."""
    of_the_image = set(re.findall(r"(?:^ENV|\s)\s*([A-Z][A-Z0-9_]+)=", stage(name)))
    passed_on = {key for key, value in services()[name]["environment"].items() if value is None}
    # The code's default is the same.
    assert of_the_image & passed_on <= {"VLLM_HF_REPO_ID"}


def test_probes_ask_for_a_path_that_exists() -> None:
    probe = (ROOT / "libs/common/src/relais_common/runtime/probe.py").read_text()
    path = re.search(r'request\("GET", "([^"]+)"\)', probe)[1]  # type: ignore[index]
    assert path in {route.path for route in ROUTES}


@pytest.mark.parametrize("name", OURS)
def test_an_image_runs_as_the_user_of_the_manifests(
    name: str, every_overlay: dict[str, Rendered]
) -> None:
    pod = every_overlay["minikube-cpu"].workloads["orchestrator"].pod["securityContext"]
    user = f"{pod['runAsUser']}:{pod['runAsGroup']}"

    assert re.findall(r"^USER (\S+)", dockerfile(name), re.MULTILINE)[-1] == user
    assert not re.search(r"USER 0:0(?![\s\S]*USER 10001)", stage(name))
    assert re.search(
        r'^ENTRYPOINT \["tini", "--", "python", "-m", "relais_', stage(name), re.MULTILINE
    )


@pytest.mark.parametrize("name", services())
def test_a_container_is_confined(name: str) -> None:
    service = services()[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert "pids" in service["deploy"]["resources"]["limits"]
    # A GPU's worker has the machine to itself.
    assert "memory" in service["deploy"]["resources"]["limits"] or name == "llm-worker-gpu"
    assert "privileged" not in service
    assert "docker.sock" not in str(service.get("volumes"))


def test_prometheus_scrapes_every_service_at_its_port() -> None:
    config = yaml.safe_load((ROOT / "infra" / "monitoring" / "prometheus.yaml").read_text())
    scraped = {
        name: one["port"]
        for job in config["scrape_configs"]
        for one in job["dns_sd_configs"]
        for name in one["names"]
    }
    exposed = {
        name: int(re.search(r"EXPOSE (\d+)", stage(name))[1])  # type: ignore[index]
        for name in OURS
        if name != "kpi"
    }
    assert scraped == exposed


def test_mounted_files_are_there() -> None:
    for name, service in services().items():
        for volume in service.get("volumes", []):
            source, _, _ = fill(volume, {}).partition(":")
            if source.startswith("."):
                assert (COMPOSE / source).exists(), (name, source)


def test_only_the_api_is_reached_from_outside() -> None:
    assert {name for name, one in services().items() if one.get("ports")} <= {
        "orchestrator",
        "proxy",
        "grafana",
    }
    for name in ("redis", "mongodb"):
        assert services()[name]["networks"] == ["inside"]


@pytest.mark.parametrize("example", [".env.example", "staging.env.example", "prod.env.example"])
def test_redis_holds_what_the_queues_may_take(example: str) -> None:
    values = env_file(COMPOSE / example)
    settings = relais_orchestrator.settings.read_settings(environment("orchestrator", values))
    redis = services()["redis"]
    maxmemory = size_bytes(fill(redis["environment"]["REDIS_MAXMEMORY"], values))
    limit = size_bytes(fill(redis["deploy"]["resources"]["limits"]["memory"], values))

    assert 1.5 * settings.limits.max_stored_bytes * len(settings.models) <= maxmemory
    assert 2 * maxmemory <= limit


@pytest.mark.parametrize("example", [".env.example", "staging.env.example", "prod.env.example"])
@pytest.mark.parametrize("name", [name for name in OURS if name != "kpi"])
def test_a_container_is_given_the_time_to_drain(name: str, example: str) -> None:
    values = env_file(COMPOSE / example)
    drain_s = float(environment(name, values).get("DRAIN_S", "25"))
    assert seconds(fill(services()[name]["stop_grace_period"], values)) >= drain_s + 10


def test_the_proxy_fills_the_whole_template() -> None:
    template = (COMPOSE / "nginx" / "relais.conf.template").read_text()
    wanted = set(re.findall(r"\$\{([A-Z_]+)\}", template))
    assert wanted == environment("proxy", {}).keys()
