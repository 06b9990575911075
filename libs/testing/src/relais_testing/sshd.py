"""A real sshd on a free port of loopback, for this user, with a key and an environment of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from relais_testing import leftovers
from relais_testing.leftovers import DIE_WITH_PARENT
from relais_testing.tcp_ports import HOST, free_port
from relais_testing.waiting import LIVENESS_S

_CONFIG = """
Port {port}
ListenAddress {host}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin yes
SetEnv {environment}
"""


@dataclass(frozen=True)
class Sshd:
    """Its address, and what a client needs."""

    port: int
    user: str
    key: Path
    known_hosts: str


def _binary() -> str:
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    assert found is not None, (
        "sshd is missing: install it (Debian, Ubuntu: sudo apt-get install openssh-server)"
    )
    return found


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@contextmanager
def running_sshd(folder: Path, environment: dict[str, str]) -> Iterator[Sshd]:
    """Yield a running sshd; logins get `environment` in addition to their own."""
    folder.mkdir()
    _make_key(folder / "host_key")
    _make_key(folder / "user_key")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own unit would make it
    port = free_port()
    given = {leftovers.MARK: os.environ[leftovers.MARK], **environment}
    settings = " ".join(f"{name}={value}" for name, value in given.items())
    config = folder / "sshd_config"
    config.write_text(_CONFIG.format(port=port, host=HOST, folder=folder, environment=settings))
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            [*DIE_WITH_PARENT, _binary(), "-D", "-e", "-f", str(config)], stderr=log
        )
    try:
        while not _listens(port):
            assert process.poll() is None, (folder / "sshd.log").read_text()
            time.sleep(0.02)
        public = (folder / "host_key.pub").read_text().split()
        yield Sshd(
            port,
            getpass.getuser(),
            folder / "user_key",
            f"[{HOST}]:{port} {public[0]} {public[1]}\n",
        )
    finally:
        process.terminate()
        process.wait(timeout=LIVENESS_S)
