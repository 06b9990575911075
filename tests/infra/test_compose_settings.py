"""Compose passes on what the services read, no more; its env files name what it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import relais_kpi.settings
from relais_testing.compose import COMPOSE, FILE, OURS, env_file, environment, services, variables
from relais_testing.manifest_settings import READERS
from relais_testing.manifests import ROOT
from relais_testing.recording import RecordingEnviron

EXAMPLE = COMPOSE / ".env.example"
ALL_READERS: dict[str, Callable[[Mapping[str, str]], Any]] = {
    **READERS,
    "kpi": relais_kpi.settings.read_settings,
}
READER_OF = {
    "orchestrator": "orchestrator",
    "llm-worker": "llm-worker",
    "llm-worker-gpu": "llm-worker",
    "llm-worker-remote": "llm-worker",
    "embedding-worker": "embedding-worker",
    "kpi": "kpi",
}
# The libraries read them.
FOREIGN = {"HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN", "OMP_NUM_THREADS"}
# The image says them, or each container for itself.
INSIDE = {"HEALTH_HOST", "HEALTH_PORT", "WORKER_ID"}
# Of the models of LLM_TABLE alone.
REMOTE = {
    "LLM_TABLE",
    "LLM_TABLE_API_KEY",
    "REMOTE_CONNECT_TIMEOUT_S",
    "REMOTE_MAX_CONCURRENCY",
    "REMOTE_PROBE_EVERY_S",
    "REMOTE_READ_TIMEOUT_S",
}
# Of bootstrap.sh.
BOOTSTRAP = {"RELAIS_RUN_DIR", "RELAIS_DEVICE", "RELAIS_API_KEY", "PYTHON"}
# Defaults that are Compose's own.
OTHER_DEFAULTS = {"REDIS_HOST", "MAX_STORED_BYTES", "EMBEDDING_MODELS", "MODELS_CACHE_DIR"}
SECRETS = {"REDIS_PASSWORD": "a", "MONGODB_PASSWORD": "b"}


def read_by(name: str) -> set[str]:
    """Settings that the service's own reader asks for."""
    environ = RecordingEnviron({"MONGODB_URL": "mongodb://host"})
    ALL_READERS[READER_OF[name]](environ)
    return environ.asked


@pytest.mark.parametrize("name", OURS)
def test_a_service_gets_the_settings_it_reads_and_no_other(name: str) -> None:
    passed = set(services()[name]["environment"])
    optional = set() if name == "llm-worker-remote" else REMOTE if "llm" in name else set()

    assert read_by(name) - INSIDE - optional <= passed
    assert passed - FOREIGN <= read_by(name)


@pytest.mark.parametrize("name", OURS)
def test_a_service_takes_what_the_example_gives_it(name: str) -> None:
    values = {**env_file(EXAMPLE, commented=True), "API_KEYS": "", "LLM_TABLE": ""}
    if name == "llm-worker-remote":
        values["LLM_TABLE"] = env_file(EXAMPLE, commented=True)["LLM_TABLE"]
    ALL_READERS[READER_OF[name]](environment(name, values))


def test_the_example_names_every_setting_of_compose() -> None:
    taken = variables(FILE.read_text()) | {
        key
        for service in services().values()
        for key, value in service.get("environment", {}).items()
        if value is None
    }
    named = env_file(EXAMPLE, commented=True).keys()

    # RELAIS_UPSTREAMS is for tests, with an nginx that cannot look addresses up again.
    assert taken - {"RELAIS_UPSTREAMS"} <= named
    assert named <= taken | {"COMPOSE_PROFILES"}


def test_the_example_names_every_setting_that_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))

    assert documented - INSIDE - BOOTSTRAP <= env_file(EXAMPLE, commented=True).keys()


def test_the_example_shows_the_true_defaults() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    documented = dict(re.findall(r"^\| `([A-Z_]+)` \| `([^`]*)` \|", page, re.MULTILINE))
    shown = {
        key: value
        for key, value in env_file(EXAMPLE, commented=True).items()
        if key in documented and key not in env_file(EXAMPLE) and key not in OTHER_DEFAULTS
    }
    assert shown
    for key, value in shown.items():
        assert value == documented[key] or key == "VLLM_ENFORCE_EAGER", key


@pytest.mark.parametrize("env", ["staging", "prod"])
def test_examples_for_servers_have_albert_s_names(env: str) -> None:
    values = env_file(COMPOSE / f"{env}.env.example", commented=True)

    assert values["ENV"] == env
    assert {
        "API_PORT",
        "API_ROOT_PATH",
        "CI_DEPLOY_HOST",
        "LLM_TABLE",
        "MODELS_CACHE_DIR",
        "REDIS_PASSWORD",
        "VLLM_GPU_MEMORY_UTILIZATION",
        "VLLM_HF_REPO_ID",
        "VLLM_TENSOR_PARALLEL_SIZE",
    } <= values.keys()
    # Nothing that looks like a password that somebody may keep.
    assert {values["REDIS_PASSWORD"], values["MONGODB_PASSWORD"]} == {"CHANGE_ME"}


def test_nobody_gets_a_secret_that_it_does_not_read() -> None:
    has = {name: environment(name, SECRETS) for name in services()}

    with_redis = {name for name, one in has.items() if "REDIS_PASSWORD" in one}
    with_mongodb = {
        name for name, one in has.items() if "b" in str(one.get("MONGODB_URL", "")).split("@")[0]
    }
    assert with_redis == set(OURS) - {"kpi"} | {"redis"}
    assert with_mongodb == {"orchestrator", "kpi"}
