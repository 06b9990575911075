"""Real nginx, with the configuration that we ship, on a free port of loopback."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from relais_testing.leftovers import DIE_WITH_PARENT
from relais_testing.tcp_ports import HOST, free_port
from relais_testing.waiting import LIVENESS_S

TEMPLATE = Path(__file__).parents[4] / "infra" / "compose" / "nginx" / "relais.conf.template"
MAX_BODY_BYTES = 20_000
_MAIN = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/relais.conf;
}}
"""


def _binary() -> str:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    assert found is not None, (
        "nginx is missing: install it (Debian, Ubuntu: sudo apt-get install nginx-light)"
    )
    return found


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def render(variables: dict[str, str]) -> str:
    """Fill in the template as envsubst does: its own variables and nothing else."""
    return re.sub(
        r"\$\{(RELAIS_[A-Z_]+)\}", lambda match: variables[match[1]], TEMPLATE.read_text()
    )


@contextmanager
def nginx_before(upstreams: Sequence[str], folder: Path, *, root_path: str = "") -> Iterator[str]:
    """Yield the base URL, including the root path."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    servers = " ".join(
        f"server {urlsplit(url).netloc} max_fails=1 fail_timeout=2s;" for url in upstreams
    )
    variables = {
        "RELAIS_LISTEN": f"{HOST}:{port}",
        "RELAIS_UPSTREAMS": servers,
        "RELAIS_ROOT_PATH": root_path,
        "RELAIS_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "RELAIS_ACCESS_LOG": str(folder / "access.log"),
    }
    (folder / "relais.conf").write_text(render(variables))
    main = folder / "nginx.conf"
    main.write_text(_MAIN.format(folder=folder))
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [*DIE_WITH_PARENT, _binary(), "-p", str(folder), "-c", str(main)],
            stdout=output,
            stderr=output,
        )
    try:
        while not _listens(port):
            assert process.poll() is None, (folder / "output.log").read_text()
            time.sleep(0.02)
        yield f"http://{HOST}:{port}{root_path}"
    finally:
        process.terminate()
        process.wait(timeout=LIVENESS_S)
