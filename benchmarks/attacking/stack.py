"""The processes that are attacked, as a deployment has them: `ENV=prod`, six keys, two orchestrators, workers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.attacking.keys import HOSTILE_MODEL, RIGHTS, VECTORS
from benchmarks.servers import end_with
from relais_testing.keys import KeyFile
from relais_testing.process_stack import MODEL, VLLM_ON_CPU
from relais_testing.processes import ServiceProcess
from relais_testing.valkey import ValkeyServer

STORED_BYTES = 16 << 20
DETERMINISTIC = {
    "ENGINE": "deterministic",
    "SERVED_MODEL_NAME": MODEL,
    "VLLM_MAX_MODEL_LEN": "100000",
    "VLLM_MAX_NUM_SEQS": "16",
    "DETERMINISTIC_TOKENS_PER_S": "60",
}

VLLM = {**VLLM_ON_CPU, "VLLM_MAX_NUM_SEQS": "16"}


@dataclass
class Stack:
    """One that runs.

    Attributes:
        model: whom victims ask for text.
        processes: orchestrators, workers and what stands behind them, by name.
        ours: names of those that are Relais's own: what they hold and log is judged.
    """

    model: str
    keys: KeyFile
    redis: ValkeyServer
    processes: dict[str, ServiceProcess] = field(default_factory=dict)
    ours: list[str] = field(default_factory=list)

    @property
    def fronts(self) -> list[ServiceProcess]:
        return [self.processes[name] for name in self.ours if name.startswith("front")]

    def urls(self) -> list[str]:
        """Of the orchestrators."""
        return [front.url for front in self.fronts]

    @property
    def pids(self) -> dict[str, int]:
        """Of Relais's own processes and of Redis."""
        return {name: self.processes[name].pid for name in self.ours} | {"redis": self.redis.pid}

    @property
    def log_bytes(self) -> int:
        return sum(self.processes[name].log_path.stat().st_size for name in self.ours)

    @property
    def ended(self) -> list[str]:
        """Processes that should still run."""
        return [
            f"{name} ended with {process.exit_code}: {process.log_tail()[-300:]}"
            for name, process in self.processes.items()
            if not process.alive
        ]


@contextmanager
def open_stack(engine: str, *, tree: Path | None = None) -> Iterator[Stack]:
    """Two orchestrators, workers with this engine, and one for vectors; all end with the context.

    Args:
        engine: `vllm`: the demo model, and a real encoder; `remote`: a model behind a hostile server.
        tree: another checkout, whose services run in place of this one's.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "redis").mkdir()
        redis = stack.enter_context(ValkeyServer(folder / "redis", appendonly=True))
        made = Stack(
            HOSTILE_MODEL if engine == "remote" else MODEL,
            KeyFile(folder / "keys.json", **RIGHTS),
            redis,
        )
        common = {
            "REDIS_URL": redis.url,
            "MODELS": MODEL,
            "EMBEDDING_MODELS": VECTORS,
            "EMBEDDING_TOKEN_IDS": "accept",
            "MAX_STORED_BYTES": str(STORED_BYTES),
            **_paths(tree),
        }

        def start(name: str, module: str, port: str, **settings: str) -> str:
            arguments = [HOSTILE_MODEL] if name == "upstream" else []
            all_settings = {**common, **settings}
            log_path = folder / f"{name}.log"
            process = ServiceProcess(module, port, log_path, all_settings, arguments=arguments)
            end_with(stack, process)
            made.processes[name] = process
            if name != "upstream":
                made.ours.append(name)
            return process.url

        if engine == "remote":
            hostile = start("upstream", "relais_testing.hostile_openai", "PORT")
            common["LLM_TABLE"] = f'[["{HOSTILE_MODEL}", "{hostile}"]]'
        for number in range(2):
            start(f"front-{number}", "relais_orchestrator", "API_PORT", **made.keys.settings)
        llm = {"deterministic": DETERMINISTIC, "vllm": VLLM, "remote": {"ENGINE": "remote"}}
        for number in range(2 if engine == "deterministic" else 1):
            start(f"worker-{number}", "relais_llm_worker", "HEALTH_PORT", **llm[engine])
        encoder = "sentence_transformers" if engine == "vllm" else "deterministic"
        start(
            "vectors",
            "relais_embedding_worker",
            "HEALTH_PORT",
            EMBEDDING_ENGINE=encoder,
            EMBEDDING_SERVED_NAME=VECTORS,
            OMP_NUM_THREADS="1",
            HF_HUB_OFFLINE="1",
        )
        for process in made.processes.values():
            process.wait_ready()
        yield made


def _paths(tree: Path | None) -> dict[str, str]:
    """What makes Python look into that checkout before it looks at what is installed."""
    if tree is None:
        return {}
    sources = [*tree.glob("libs/*/src"), *tree.glob("services/*/src")]
    return {"PYTHONPATH": ":".join(str(one.resolve()) for one in sources)}
