"""Reads the settings that a manifest gives to the services, with their own readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import relais_embedding_worker.settings
import relais_kpi.settings
import relais_llm_worker.settings
import relais_orchestrator.settings
from relais_testing.manifests import Rendered, Workload

READERS: dict[str, Callable[[Mapping[str, str]], Any]] = {
    "orchestrator": relais_orchestrator.settings.read_settings,
    "llm-worker": relais_llm_worker.settings.read_settings,
    "remote-worker": relais_llm_worker.settings.read_settings,
    "embedding-worker": relais_embedding_worker.settings.read_settings,
    "kpi": relais_kpi.settings.read_settings,
}


def ours(overlay: Rendered) -> list[Workload]:
    """Return the workloads that run this repository's code."""
    return [one for one in overlay.workloads.values() if "relais-" in one.container["image"]]


def servers(overlay: Rendered) -> list[Workload]:
    """Return those of them that run until they are stopped."""
    return [one for one in ours(overlay) if one.name != "kpi"]


def settings_of(overlay: Rendered, name: str, folder: Path) -> Any:
    """Return the settings as the service reads them, with files of the repository instead of the container's."""
    workload = overlay.workloads[name]
    environment = overlay.environment(workload)
    for variable, value in environment.items():
        if value.startswith("/etc/relais/"):
            file = folder / f"{name}-{Path(value).name}"
            file.write_text(overlay.mounted_file(workload, value))
            environment[variable] = str(file)
    return READERS[name](environment)
