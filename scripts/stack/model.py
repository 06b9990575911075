"""What one run is made of, and the file that lets `status`, `logs` and `down` find it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

LOOPBACK = "127.0.0.1"
_FILE = "run.json"
_Saved = TypeVar("_Saved", "Run", "Program")


class Stage(IntEnum):
    """Programs start from the lowest stage up, and stop from the highest down."""

    REDIS = 1
    MONGODB = 2
    ORCHESTRATOR = 3
    WORKER = 4


@dataclass(frozen=True, slots=True)
class Program:
    """One process kept by the supervisor.

    Attributes:
        command: for a shell, which expands variables: paths with odd characters never enter the configuration.
        environment: what this program gets beside the environment of the run.
        host, port: where it listens.
        ready_path: the HTTP path that answers 200 when it is ready; empty for Redis and MongoDB.
        stop_wait_s: how long it may take to drain before it is killed.
        setting: the setting that moves its port.
    """

    name: str
    command: str
    stage: Stage
    host: str
    port: int
    setting: str
    ready_path: str = ""
    stop_wait_s: int = 40
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its place, its programs, and the mark all its processes carry.

    Attributes:
        model, embedding_model: of its own workers; models: all that its orchestrators declare.
        embedding_setting: the setting that declares its embedding workers' model.
    """

    run_id: str
    root: str
    run_dir: str
    socket: str
    model: str
    api_urls: tuple[str, ...]
    programs: tuple[Program, ...]
    models: tuple[str, ...] = ()
    embedding_model: str = ""
    embedding_setting: str = ""
    keeps_traces: bool = False
    redis_password: str = field(default="", repr=False)

    @property
    def models_served(self) -> str:
        """For a person."""
        return f"{'models' if len(self.models) > 1 else 'model'} {', '.join(self.models)}"

    @property
    def logs(self) -> Path:
        return Path(self.run_dir) / "logs"

    def save(self) -> None:
        path = Path(self.run_dir) / _FILE
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(asdict(self), indent=2))
        fresh.replace(path)

    def forget(self) -> None:
        (Path(self.run_dir) / _FILE).unlink(missing_ok=True)

    @staticmethod
    def load(run_dir: Path) -> Run | None:
        """The run whose files lie in `run_dir`, whether or not it is alive."""
        try:
            raw: dict[str, Any] = json.loads((run_dir / _FILE).read_text())
            raw["programs"] = [_restored(Program, program) for program in raw["programs"]]
            return _restored(Run, raw)
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _restored(kind: type[_Saved], raw: Mapping[str, Any]) -> _Saved:
    """Return what was saved, perhaps by another version: `down` must find its run after an upgrade."""
    known = (one.name for one in fields(kind))
    values: dict[str, Any] = {name: raw[name] for name in known if name in raw}
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)
    return kind(**values)
