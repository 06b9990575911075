"""Settings and start of a stack of real processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from relais_testing import prefork
from relais_testing.leftovers import MARK
from relais_testing.processes import ServiceProcess
from relais_testing.valkey import ValkeyServer

ROOT = Path(__file__).resolve().parents[4]
DEMO_MODEL = ROOT / "models" / "relais-demo"
MODEL = "relais-demo"

# Short, so that what a timer does is seen within a test; but no job changes hands where the machine stands still.
QUICK = {
    "ENV": "dev",
    "MODELS": MODEL,
    "LEASE_S": "300",
    "REAP_EVERY_S": "0.2",
    "HEARTBEAT_S": "0.5",
    "KEEPALIVE_S": "1",
    "WATCH_LEASE_S": "2",
    "DRAIN_S": "5",
}
# For a worker that is to be killed: others get its jobs soon.
MORTAL = {"LEASE_S": "1.5"}
# As scripts/bootstrap.sh gives them on a machine without GPU.
VLLM_ON_CPU = {
    "ENGINE": "vllm",
    "VLLM_HF_REPO_ID": str(DEMO_MODEL),
    "SERVED_MODEL_NAME": MODEL,
    "VLLM_DTYPE": "float32",
    "VLLM_MAX_MODEL_LEN": "1024",
    "VLLM_MAX_NUM_SEQS": "4",
    "VLLM_KV_CACHE_MEMORY_BYTES": str(256 << 20),
    "VLLM_TOOL_CALL_PARSER": "hermes",
    "VLLM_REASONING_PARSER": "deepseek_v3",
    "VLLM_ENFORCE_EAGER": "true",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
DETERMINISTIC = {
    "ENGINE": "deterministic",
    "SERVED_MODEL_NAME": MODEL,
    "VLLM_MAX_MODEL_LEN": "100000",
}

# For `vllm serve`: as Relais's worker does without compilation.
VLLM_SERVE_ON_CPU = {
    **{
        name: value
        for name, value in VLLM_ON_CPU.items()
        if name.startswith(("VLLM_ENABLE", "VLLM_CPU", "VLLM_NO", "DO_NOT", "OMP", "HF_"))
    },
    "TORCHDYNAMO_DISABLE": "1",
}

Starter = Callable[..., ServiceProcess]


@dataclass(frozen=True)
class ForkingRun:
    """What processes of one run of tests (`pytest -n`) share to fork services.

    Attributes:
        folder: for sockets; its path is short.
        mark: of the run's first process, with which the forking processes end.
    """

    folder: Path
    mark: str


class Forks:
    """Who forks services, and whom this process let them fork."""

    def __init__(self, mothers: tuple[prefork.Mother, ...]) -> None:
        self._mothers = mothers

    @property
    def mothers(self) -> set[int]:
        """Return the ids of the processes that fork."""
        return {one.pid for one in self._mothers if one.pid is not None}

    @property
    def sessions(self) -> set[int]:
        """Return the sessions of the services."""
        return set().union(*(one.sessions for one in self._mothers))

    def forget_ended(self) -> None:
        """Forget services that have ended, and whatever they left behind."""
        for one in self._mothers:
            one.forget_ended()


@contextmanager
def forking(run: ForkingRun) -> Iterator[Forks]:
    """Fork services inside the context, from processes that a whole run of tests shares."""
    marked = {MARK: run.mark}
    light = prefork.Mother(prefork.LIGHT, marked, run.folder / "light")
    # vLLM's search for n-grams is compiled anew by each engine that speculates; Python finds the same.
    vllm = VLLM_SERVE_ON_CPU | {"NUMBA_DISABLE_JIT": "1"}
    heavy = prefork.Mother(prefork.HEAVY, vllm | marked, run.folder / "heavy")
    with prefork.forking(light, heavy):
        yield Forks((light, heavy))


def make_starter(stack: ExitStack, redis: ValkeyServer, folder: Path, **defaults: str) -> Starter:
    """Return a starter of services that end with the stack: `start("orchestrator")`, `start("llm_worker", **settings)`.

    `module` is what runs in the service's place. With `wait=False` a service need not live long enough to be ready.
    """
    ports = {
        "orchestrator": "API_PORT",
        "llm_worker": "HEALTH_PORT",
        "embedding_worker": "HEALTH_PORT",
    }

    def start(
        service: str, *, module: str | None = None, wait: bool = True, **settings: str
    ) -> ServiceProcess:
        log_path = folder / f"{service}-{len(list(folder.iterdir()))}.log"
        environment = {**QUICK, "REDIS_URL": redis.url, **defaults, **settings}
        process = ServiceProcess(
            module or f"relais_{service}",
            ports[service],
            log_path,
            environment,
        )
        if wait:
            return stack.enter_context(process)
        stack.push(process)
        return process

    return start


VllmStarter = Callable[..., ServiceProcess]


def make_vllm_starter(stack: ExitStack, folder: Path, model: Path = DEMO_MODEL) -> VllmStarter:
    """Starts `vllm serve` with a model, as a deployment has it that Relais did not start; ends with the stack.

    Give `PORT` to have one on the port of an earlier one, and further arguments of the command.
    """
    options = {
        "served-model-name": MODEL,
        "dtype": VLLM_ON_CPU["VLLM_DTYPE"],
        "max-model-len": VLLM_ON_CPU["VLLM_MAX_MODEL_LEN"],
        "max-num-seqs": VLLM_ON_CPU["VLLM_MAX_NUM_SEQS"],
        "kv-cache-memory-bytes": VLLM_ON_CPU["VLLM_KV_CACHE_MEMORY_BYTES"],
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    served = ["serve", str(model), "--enforce-eager", *arguments]

    def start(*more: str, wait: bool = True, **settings: str) -> ServiceProcess:
        process = ServiceProcess(
            "relais_testing.vllm_command",
            "PORT",
            folder / f"vllm-serve-{len(list(folder.iterdir()))}.log",
            {**VLLM_SERVE_ON_CPU, **settings},
            arguments=[*served, *more],
            ready_path="/health",
        )
        stack.push(process)
        if wait:
            process.wait_ready()
        return process

    return start
