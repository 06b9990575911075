"""Settings in, a run out: which programs, on which ports, with which environment."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack import ports
from stack.embedded_mongo import embed_mongo
from stack.embedded_redis import embed_redis
from stack.model import LOOPBACK, Program, Run, Stage
from stack.models import DEMO_MODEL, Model, declared_models, settle_embedder, settle_llm
from stack.processes import MARK

_SOCKET_PATH_MAX_BYTES = 100  # the kernel's limit is 107

# What every run gets unless the user said otherwise.
_DEFAULTS = {
    "ENV": "dev",
    "API_HOST": LOOPBACK,
    "API_PORT": "8080",
    "ENGINE": "vllm",
    "HEALTH_HOST": LOOPBACK,
    "VLLM_HF_REPO_ID": DEMO_MODEL,
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
    # setproctitle writes over /proc/PID/environ, where the mark of the run is looked for.
    "SPT_NOENV": "1",
}


@dataclass(frozen=True, slots=True)
class _Worker:
    """A worker without its port, which is looked for from `first_port` up."""

    name: str
    kind: str
    first_port: int
    environment: Mapping[str, str]
    ready_path: str = "/readyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many processes of each kind.

    Attributes:
        mongodb: bring one along where the user has none.
    """

    orchestrators: int = 1
    llm_workers: int = 1
    embedding_workers: int = 1
    mongodb: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that can be started."""

    run: Run
    environment: Mapping[str, str]
    demo: bool
    redis_config: str


def run_directory(root: Path, environ: Mapping[str, str]) -> Path:
    return (root / Path(environ.get("RELAIS_RUN_DIR") or ".run").expanduser()).resolve()


def make_plan(root: Path, environ: Mapping[str, str], counts: Counts) -> Plan:
    run_dir = run_directory(root, environ)
    environment = {
        **_DEFAULTS,
        **{key: value for key, value in environ.items() if value or key not in _DEFAULTS},
    }
    llm = settle_llm(root, environment, environ)
    environment.setdefault("MODELS", llm.name)
    embedder = None
    if counts.embedding_workers and environment.get("EMBEDDING_ENGINE") != "remote":
        embedder = settle_embedder(root, environment, environ)

    run_id = secrets.token_hex(8)
    environment |= {
        MARK: run_id,
        "RELAIS_ROOT": str(root),
        "RELAIS_RUN_DIR": str(run_dir),
        "RELAIS_BIN": str(root / ".venv" / "bin"),
        "RELAIS_SUPERVISOR_SOCKET": str(_socket_path(run_dir)),
    }
    programs, redis_config = _plan_programs(
        run_dir, environment, counts, _plan_workers(environment, counts, llm, embedder)
    )
    api = [program for program in programs if program.stage == Stage.ORCHESTRATOR]
    run = Run(
        run_id=run_id,
        root=str(root),
        run_dir=str(run_dir),
        socket=environment["RELAIS_SUPERVISOR_SOCKET"],
        model=llm.name,
        models=declared_models(environment),
        embedding_model=embedder.name if embedder else "",
        embedding_setting=embedder.declared_in if embedder else "",
        keeps_traces=bool(environment.get("MONGODB_URL")),
        api_urls=tuple(f"http://{_display_host(program.host)}:{program.port}" for program in api),
        programs=programs,
        redis_password=environment.get("REDIS_PASSWORD", "") if redis_config else "",
    )
    return Plan(run=run, environment=environment, demo=llm.demo, redis_config=redis_config)


def _plan_workers(
    environment: Mapping[str, str], counts: Counts, llm: Model, embedder: Model | None
) -> list[_Worker]:
    # Albert's table has a server at 8081, which may come up later.
    first_port = 8091 if environment.get("LLM_TABLE") else 8081
    workers = [
        _Worker(_numbered("llm_worker", index), "llm", first_port, llm.environment)
        for index in range(counts.llm_workers)
    ]
    if environment.get("LLM_TABLE") and environment["ENGINE"] != "remote":
        # Alive is enough: others' servers need not be up for this machine's model to be served.
        remote = {"ENGINE": "remote"}
        workers.append(_Worker("remote_worker", "llm", first_port, remote, "/healthz"))
    if any(map(environment.get, ("EMBEDDING_TABLE", "RERANK_TABLE", "CLASSIFY_TABLE"))):
        remote = {"EMBEDDING_ENGINE": "remote"}
        workers.append(_Worker("remote_embedding_worker", "embedding", 8085, remote, "/healthz"))
    if embedder:
        workers += [
            _Worker(_numbered("embedding_worker", index), "embedding", 8085, embedder.environment)
            for index in range(counts.embedding_workers)
        ]
    return workers


def _plan_programs(
    run_dir: Path, environment: dict[str, str], counts: Counts, workers: list[_Worker]
) -> tuple[tuple[Program, ...], str]:
    """The programs, and the embedded Redis's configuration (empty where the user brings a Redis)."""
    programs = []
    host = environment["API_HOST"]
    first_port = ports.of_setting(environment, "API_PORT")
    for index in range(counts.orchestrators):
        ports.require_free(host, first_port + index, "API_PORT")
        programs.append(
            Program(
                name=_numbered("orchestrator", index),
                command='exec "$RELAIS_BIN/relais-orchestrator"',
                stage=Stage.ORCHESTRATOR,
                host=host,
                port=first_port + index,
                setting="API_PORT",
                ready_path="/readyz",
                environment={"API_PORT": str(first_port + index)},
            )
        )
    given = {program.port for program in programs}

    redis_config = ""
    if not environment.get("REDIS_URL") and not environment.get("REDIS_HOST"):
        redis, redis_config = embed_redis(
            run_dir, environment, given, models=len(declared_models(environment))
        )
        given.add(redis.port)
        programs.insert(0, redis)
    if counts.mongodb and not environment.get("MONGODB_URL"):
        mongo = embed_mongo(environment, given)
        given.add(mongo.port)
        programs.insert(0, mongo)

    host = environment["HEALTH_HOST"]
    for index, worker in enumerate(workers):
        if environment.get("HEALTH_PORT"):
            port = ports.of_setting(environment, "HEALTH_PORT") + index
            ports.require_free(host, port, "HEALTH_PORT")
        else:
            port = ports.first_free(host, worker.first_port, given)
        given.add(port)
        programs.append(
            Program(
                name=worker.name,
                command=f'exec "$RELAIS_BIN/relais-{worker.kind}-worker"',
                stage=Stage.WORKER,
                host=host,
                port=port,
                setting="HEALTH_PORT",
                ready_path=worker.ready_path,
                environment={"HEALTH_PORT": str(port), **worker.environment},
            )
        )
    return tuple(programs), redis_config


def _socket_path(run_dir: Path) -> Path:
    path = run_dir / "supervisor.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_MAX_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:16]
    return (
        Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"relais-{digest}.sock"
    )


def _numbered(name: str, index: int) -> str:
    return name if index == 0 else f"{name}-{index + 1}"


def _display_host(host: str) -> str:
    if host in ("", "0.0.0.0", "::", LOOPBACK, "::1"):  # noqa: S104  shown, not bound
        return "localhost"
    return f"[{host}]" if ":" in host else host
