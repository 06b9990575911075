"""The server that speaks MongoDB's protocol which a run brings along.

SecantusDB is under the GPL-2.0: it runs as a process of its own, is imported by nothing, and is in no image.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from stack import ports
from stack.errors import StackError
from stack.model import LOOPBACK, Program, Stage


def embed_mongo(environment: dict[str, str], given: set[int]) -> Program:
    """The program; tells the services where it is."""
    if environment.get("MONGODB_PORT"):
        port = ports.of_setting(environment, "MONGODB_PORT")
        ports.require_free(LOOPBACK, port, "MONGODB_PORT")
    else:
        port = ports.first_free(LOOPBACK, 27117, given)
    environment |= {
        "RELAIS_MONGO_SERVER": str(_binary()),
        "MONGODB_URL": f"mongodb://{LOOPBACK}:{port}",
    }
    return Program(
        name="mongodb",
        # It heeds no `j: true`: what it has acknowledged outlives a kill only where each commit is synchronised.
        command=(
            f'exec "$RELAIS_MONGO_SERVER" --host {LOOPBACK} --port {port}'
            ' --storage-path "$RELAIS_RUN_DIR/mongodb" --log-file-max 128MB --cache-size 128M --sync-on-commit'
        ),
        stage=Stage.MONGODB,
        host=LOOPBACK,
        port=port,
        setting="MONGODB_PORT",
        stop_wait_s=20,
    )


def _binary() -> Path:
    """The server inside the wheel."""
    try:
        path = Path(str(distribution("secantusdb").locate_file("secantusdb.scripts/secantusd-rs")))
    except PackageNotFoundError:
        raise StackError(
            "the embedded MongoDB server is not installed: run scripts/bootstrap.sh, or set MONGODB_URL"
        ) from None
    if not path.is_file():
        raise StackError(
            "there is no embedded MongoDB server for this machine: set MONGODB_URL to a server of yours,"
            " or start with --no-mongodb"
        )
    return path
