"""Checks what infra/compose needs in its env file, in addition to the services' settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from relais_common.config.server_table import TableEntry
from relais_common.jobs.errors import SettingsError
from relais_common.runtime import environ
from relais_common.runtime.environ import Environ

OWN = frozenset(
    """
    API_HOST API_KEYS_DIR API_PORT CI_API_IMAGE_TAG CI_DEPLOY_HOST CI_REGISTRY_IMAGE CI_VLLM_IMAGE_TAG
    COMPOSE_FILE COMPOSE_PROFILES COMPOSE_PROJECT_NAME EMBEDDING_WORKER_MEMORY_LIMIT GRAFANA_HOST
    GRAFANA_MEMORY_LIMIT GRAFANA_PASSWORD GRAFANA_PORT HF_ENDPOINT HF_HUB_OFFLINE HF_TOKEN LLM_WORKER_GPUS
    LLM_WORKER_MEMORY_LIMIT MODELS_CACHE_DIR MONGODB_CACHE_GB MONGODB_MEMORY_LIMIT MONGODB_PASSWORD
    MONITORING_DIR OMP_NUM_THREADS ORCHESTRATOR_MEMORY_LIMIT PROMETHEUS_MEMORY_LIMIT PROMETHEUS_RETENTION
    PROXY_HOST PROXY_PORT REDIS_MAXMEMORY REDIS_MEMORY_LIMIT REDIS_PASSWORD STOP_GRACE_PERIOD
    """.split()
)
"""Settings of Compose, the deployment and libraries."""

KEYS_FOLDER = PurePosixPath("/etc/relais/keys")
"""Where the folder with the file of keys is mounted."""

_ENGINES = {"cpu": "vllm", "gpu": "vllm", "remote": "remote"}
_PROFILES = {*_ENGINES, "kpi", "monitoring", "proxy"}
_PLACEHOLDER = re.compile(r"change[_-]?me|<.*>|xxx+", re.IGNORECASE)
_URL_SAFE = re.compile(r"[A-Za-z0-9._~-]+")
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_SIZE = re.compile(r"(\d+)([kmg])b?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m)?")
_LEAST_PASSWORD = 16
_STOP_MARGIN_S = 10


def profiles(values: Environ) -> set[str]:
    return set(environ.words(values, "COMPOSE_PROFILES", ""))


def inside(service: str, values: Environ) -> dict[str, str]:
    """Return the environment of the service's container, as far as its reader is concerned."""
    found = {
        key: value for key, value in values.items() if key not in OWN or key == "REDIS_PASSWORD"
    }
    found.setdefault("MONGODB_URL", "mongodb://mongodb:27017")
    if service == "llm-worker":
        chosen = [_ENGINES[one] for one in sorted(profiles(values) & _ENGINES.keys())]
        # If both kinds run, the table is what can be invalid.
        found["ENGINE"] = "remote" if "remote" in chosen else found.get("ENGINE", "vllm")
    return found


def problems_of_deployment(values: Environ) -> list[str]:
    """Return all missing and invalid settings."""
    found: list[str] = []
    for check in (
        _placeholders,
        _environment,
        _passwords,
        _ports,
        _profiles_named,
        _tables,
        _names_of_models,
        _memory,
        _stopping,
    ):
        try:
            found += check(values)
        except SettingsError:
            continue  # a service's reader tells of it
    return found


def _placeholders(values: Environ) -> Iterator[str]:
    for name, value in values.items():
        if _PLACEHOLDER.fullmatch(value):
            yield f"{name} still has its example's value"


def _environment(values: Environ) -> Iterator[str]:
    env = environ.text(values, "ENV", "")
    if not env:
        yield "ENV is not set; it takes one of: dev, staging, prod"
    elif env != "dev":
        if not environ.optional_text(values, "CI_DEPLOY_HOST"):
            yield f"CI_DEPLOY_HOST is not set; with ENV={env} it names the machine to deploy to"
        keys = environ.optional_text(values, "API_KEYS")
        if keys and PurePosixPath(keys).parent != KEYS_FOLDER:
            yield f"API_KEYS is {keys!r}; in the containers the keys are in {KEYS_FOLDER}"


def _passwords(values: Environ) -> Iterator[str]:
    for name, url in (("REDIS_PASSWORD", "REDIS_URL"), ("MONGODB_PASSWORD", "MONGODB_URL")):
        password = environ.optional_text(values, name)
        if password is None:
            # Compose starts its own servers in any case.
            yield f"{name} is not set" + (
                f"; {url} does not do in its place" if url in values else ""
            )
        elif not _URL_SAFE.fullmatch(password):
            yield f"{name} takes letters, digits and . _ ~ - only"
        elif (
            environ.text(values, "ENV", "dev") != "dev"
            and len(password) < _LEAST_PASSWORD
            and not _PLACEHOLDER.fullmatch(password)
        ):
            yield f"{name} has {len(password)} characters; outside ENV=dev it takes at least {_LEAST_PASSWORD}"
    if (
        "monitoring" in profiles(values)
        and environ.text(values, "ENV", "dev") != "dev"
        and not environ.optional_text(values, "GRAFANA_PASSWORD")
    ):
        yield "GRAFANA_PASSWORD is not set; outside ENV=dev the profile monitoring wants one"


def _ports(values: Environ) -> Iterator[str]:
    for name in ("API_PORT", "PROXY_PORT", "GRAFANA_PORT"):
        text = environ.text(values, name, "8080")
        match = _PORTS.fullmatch(text)
        ports = [int(port) for port in match.groups() if port] if match else []
        if not ports or not all(0 < port < 65_536 for port in ports) or ports != sorted(ports):
            yield f"{name} is {text!r}; it takes a port, or a range such as 8080-8083"


def _profiles_named(values: Environ) -> Iterator[str]:
    chosen = profiles(values)
    for one in sorted(chosen - _PROFILES):
        yield f"COMPOSE_PROFILES has {one!r}; it takes: {', '.join(sorted(_PROFILES))}"
    if not chosen & _ENGINES.keys():
        yield "COMPOSE_PROFILES names nobody who answers; it takes one of: cpu, gpu, remote"
    size = environ.integer(values, "VLLM_TENSOR_PARALLEL_SIZE", 1, at_least=1)
    gpus = environ.text(values, "LLM_WORKER_GPUS", "1")
    if "gpu" in chosen and gpus != "all" and (not gpus.isdigit() or int(gpus) < size):
        yield f"LLM_WORKER_GPUS is {gpus!r}; VLLM_TENSOR_PARALLEL_SIZE={size} takes at least {size}"


def _tables(values: Environ) -> Iterator[str]:
    tables: dict[str, Sequence[TableEntry]] = {
        "LLM_TABLE": environ.llm_table(values),
        **{name: environ.worker_table(values, kind) for kind, name in environ.TABLES.items()},
    }
    for name, entries in tables.items():
        for entry in entries:
            if urlsplit(entry.url).hostname in ("localhost", "127.0.0.1", "::1"):
                yield (
                    f"{name} has {entry.url}, which in a container is the container; "
                    "this machine is host.docker.internal"
                )


def _names_of_models(values: Environ) -> Iterator[str]:
    declared = environ.models(values)
    if profiles(values) & {"cpu", "gpu"}:
        repo_id = environ.text(values, "VLLM_HF_REPO_ID", "models/relais-demo")
        is_folder = repo_id == "models/relais-demo" or repo_id.startswith("/")
        served = environ.text(
            values, "SERVED_MODEL_NAME", PurePosixPath(repo_id).name if is_folder else repo_id
        )
        if served not in declared:
            yield f"MODELS lacks {served!r}, which the worker serves"
    vectors = environ.words(values, "EMBEDDING_MODELS", "all-MiniLM-L6-v2")
    known = {*vectors, *environ.model_kinds(values)}
    is_remote = values.get("EMBEDDING_ENGINE") == "remote"
    if known and not is_remote:
        for served in environ.words(
            values,
            "EMBEDDING_SERVED_NAME",
            environ.text(values, "EMBEDDING_MODEL", "all-MiniLM-L6-v2"),
        ):
            if served not in known:
                yield (
                    f"EMBEDDING_MODELS (RERANK_MODELS, CLASSIFY_MODELS) lacks {served!r}, which the worker serves"
                )


def _memory(values: Environ) -> Iterator[str]:
    maxmemory = _size(values, "REDIS_MAXMEMORY", "3gb")
    limit = _size(values, "REDIS_MEMORY_LIMIT", "6g")
    if maxmemory is None or limit is None:
        for name, size in (("REDIS_MAXMEMORY", maxmemory), ("REDIS_MEMORY_LIMIT", limit)):
            if size is None:
                yield f"{name} is {values[name]!r}; it takes a size such as 3gb"
        return
    stored = environ.integer(values, "MAX_STORED_BYTES", 1 << 30)
    declared = {
        *environ.models(values),
        *environ.words(values, "EMBEDDING_MODELS", "all-MiniLM-L6-v2"),
    }
    if 1.5 * stored * len(declared) > maxmemory:
        needed_gb = -(-int(1.5 * stored * len(declared)) // (1 << 30))
        yield (
            f"REDIS_MAXMEMORY is too small for MAX_STORED_BYTES={stored} of {len(declared)} models: "
            f"at least {needed_gb}gb"
        )
    if 1.5 * maxmemory > limit:
        yield "REDIS_MEMORY_LIMIT is too small for REDIS_MAXMEMORY: at least half as much again"


def _size(values: Environ, name: str, default: str) -> int | None:
    match = _SIZE.fullmatch(environ.text(values, name, default))
    return int(match[1]) << {"k": 10, "m": 20, "g": 30}[match[2].lower()] if match else None


def _stopping(values: Environ) -> Iterator[str]:
    drain_s = environ.number(values, "DRAIN_S", 25.0)
    text = environ.text(values, "STOP_GRACE_PERIOD", "40s")
    match = _DURATION.fullmatch(text)
    if match is None:
        yield f"STOP_GRACE_PERIOD is {text!r}; it takes seconds such as 40s"
    elif float(match[1]) * (60 if match[2] == "m" else 1) < drain_s + _STOP_MARGIN_S:
        yield f"STOP_GRACE_PERIOD is {text}; DRAIN_S={drain_s:g} takes at least {drain_s + _STOP_MARGIN_S:g}s"
