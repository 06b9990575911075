"""The sides: the upstream itself, and what may stand in front of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from benchmarks.forwarding.report import BARE, LITELLM, NGINX, RELAIS
from benchmarks.servers import Server, end_with, start_relais
from relais_testing.process_stack import MODEL
from relais_testing.processes import ServiceProcess
from relais_testing.tcp_ports import HOST, free_port

_NGINX = """
daemon off;
worker_processes auto;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections {files}; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream behind {{ server {behind}; keepalive 128; }}
    server {{
        listen {host}:{port} backlog=4096;
        location / {{
            proxy_pass http://behind;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""
FILES = 20_000
"""Open files that each process may have."""


@dataclass(frozen=True, slots=True)
class Gateways:
    """What is measured beside the upstream and Relais.

    Attributes:
        litellm: the command `litellm` of an environment of its own; None to leave it out.
        nginx: the command `nginx`; None to leave it out.
        streams: the most that Relais must take at once; its bounds for one client and key are below the default ladder.
    """

    litellm: Path | None
    nginx: str | None
    streams: int


def find_nginx() -> str | None:
    """Return nginx's path; None where it is not installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def started(gateways: Gateways, folder: Path) -> Iterator[dict[str, Server]]:
    """Yield the sides by name, the upstream first; each is ready, and counts the upstream's CPU as its own process."""
    with ExitStack() as stack:
        upstream = stack.enter_context(
            ServiceProcess("benchmarks.forwarding.upstream", "PORT", folder / "upstream.log", {})
        )
        sides = {BARE: Server(upstream.url, {})}
        if gateways.nginx is not None:
            sides[NGINX] = _nginx(stack, folder, gateways.nginx, upstream)
        if gateways.litellm is not None:
            sides[LITELLM] = _litellm(stack, folder, gateways.litellm, upstream)
        sides[RELAIS] = _relais(stack, folder, gateways.streams, upstream)
        yield {
            name: Server(side.url, {**side.pids, "upstream": upstream.pid})
            for name, side in sides.items()
        }


def _nginx(stack: ExitStack, folder: Path, command: str, upstream: ServiceProcess) -> Server:
    here, port = folder / "nginx", free_port()
    here.mkdir()
    config = here / "nginx.conf"
    behind = urlsplit(upstream.url).netloc
    config.write_text(_NGINX.format(files=FILES, folder=here, behind=behind, host=HOST, port=port))
    process = ServiceProcess(
        "nginx",
        "PORT",
        here / "output.log",
        {"PORT": str(port)},
        command=(command,),
        arguments=("-p", str(here), "-c", str(config)),
    )
    # Its workers would outlive a master that is killed alone.
    end_with(stack, process)
    process.wait_ready()
    return Server(process.url, {"nginx": process.pid})


def _litellm(stack: ExitStack, folder: Path, command: Path, upstream: ServiceProcess) -> Server:
    config = folder / "litellm.json"
    entry = {"model": f"openai/{MODEL}", "api_base": f"{upstream.url}/v1", "api_key": "any"}
    config.write_bytes(
        orjson.dumps(
            {
                "model_list": [{"model_name": MODEL, "litellm_params": entry}],
                "litellm_settings": {"telemetry": False},
            }
        )
    )
    process = ServiceProcess(
        "litellm",
        "PORT",
        folder / "litellm.log",
        {
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            # Neither a key nor a database: as Relais in `ENV=dev`.
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            # With its own bounds of 1,000 and 500 connections the other streams would wait; 0 is no bound but 100.
            "AIOHTTP_CONNECTOR_LIMIT": str(FILES),
            "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": str(FILES),
        },
        command=(str(command),),
        arguments=(
            *("--config", str(config), "--host", HOST, "--num_workers", "1"),
            # Clients keep their connections, idle ones too; uvicorn closes those after 5 s.
            *("--keepalive_timeout", "600"),
        ),
        ready_path="/health/liveliness",
    )
    stack.enter_context(process)
    return Server(process.url, {"litellm": process.pid})


def _relais(stack: ExitStack, folder: Path, streams: int, upstream: ServiceProcess) -> Server:
    most = str(2 * streams)
    common = {"LLM_TABLE": orjson.dumps([[MODEL, upstream.url]]).decode()}
    bounds = {
        "MAX_CONNECTIONS": most,
        "MAX_CONNECTIONS_PER_ADDRESS": most,
        "MAX_INFLIGHT_PER_KEY": most,
        "MAX_STREAMS_PER_KEY": most,
        "MAX_WAITING": most,
    }
    engine = {"ENGINE": "remote", "REMOTE_MAX_CONCURRENCY": most}
    return start_relais(stack, folder, "relais_llm_worker", {**common, **bounds}, engine)
