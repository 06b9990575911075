"""Real Sentinels (a mode of the server) that watch a primary and its replicas on loopback."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from relais_testing.leftovers import DIE_WITH_PARENT
from relais_testing.tcp_ports import HOST, free_port
from relais_testing.valkey import ValkeyServer, binary_path
from relais_testing.waiting import LIVENESS_S

SERVICE = "relais"
_CONFIG = """
bind {host}
port {port}
dir {folder}
logfile {folder}/sentinel.log
sentinel monitor {service} {host} {primary} 2
sentinel down-after-milliseconds {service} 3000
sentinel failover-timeout {service} 5000
"""


class Sentinels:
    """Three Sentinels with a quorum of two."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = ports

    @property
    def url(self) -> str:
        """Return the address for `REDIS_URL`."""
        hosts = ",".join(f"{HOST}:{port}" for port in self.ports)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    def master_port(self) -> int | None:
        """Return the port that most of them name as the primary's."""
        said = []
        for port in self.ports:
            with Redis(host=HOST, port=port, decode_responses=True) as sentinel:
                try:
                    found = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
                except RedisError:
                    continue
                said.append(int(found[1]))
        return max(set(said), key=said.count) if said else None

    def know_each_other_and_the_replica(self) -> bool:
        """Return whether they know each other and the replica; before that there is no fail-over."""
        for port in self.ports:
            with Redis(host=HOST, port=port, decode_responses=True) as sentinel:
                try:
                    state = sentinel.sentinel_master(SERVICE)
                except RedisError:
                    return False
            if (int(state["num-other-sentinels"]), int(state["num-slaves"])) != (2, 1):
                return False
        return True


@contextmanager
def running_sentinels(primary: ValkeyServer, folder: Path) -> Iterator[Sentinels]:
    """Yield Sentinels, which take a moment to find each other: `know_each_other_and_the_replica`."""
    with ExitStack() as stack:
        ports = []
        for index in range(3):
            own = folder / f"sentinel-{index}"
            own.mkdir(parents=True)
            port = free_port()
            config = own / "sentinel.conf"
            config.write_text(
                _CONFIG.format(
                    host=HOST, port=port, folder=own, service=SERVICE, primary=primary.port
                )
            )
            process = subprocess.Popen(
                [*DIE_WITH_PARENT, str(binary_path()), str(config), "--sentinel"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait, timeout=LIVENESS_S)
            stack.callback(process.kill)
            ports.append(port)
        yield Sentinels(ports)
