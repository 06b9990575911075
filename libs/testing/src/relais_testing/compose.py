"""Reads infra/compose without Docker."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from relais_testing.manifests import ROOT

COMPOSE = ROOT / "infra" / "compose"
FILE = COMPOSE / "compose.yaml"
OURS = {
    "orchestrator": "orchestrator",
    "llm-worker": "llm_worker",
    "llm-worker-gpu": "llm_worker",
    "llm-worker-remote": "llm_worker",
    "embedding-worker": "embedding_worker",
    "kpi": "kpi",
}
"""The services that run this repository's code, and their folders."""

_VARIABLE = re.compile(
    r"(?<!\$)\$\{(?P<name>[A-Z_]+)(?:(?P<operator>:?[-?])(?P<rest>(?:[^{}]|\{[^{}]*\})*))?\}"
)


def services() -> dict[str, Any]:
    """Return the services of the file."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]
    return found


def fill(text: str, values: Mapping[str, str]) -> str:
    """Substitute variables as Compose does: `${NAME}`, `${NAME-default}`, `${NAME:-default}`, `${NAME:?error}`."""

    def one(match: re.Match[str]) -> str:
        value = values.get(match["name"])
        operator = match["operator"] or ""
        if value is None or (operator.startswith(":") and not value):
            return fill(match["rest"], values) if operator.endswith("-") else ""
        return value

    return _VARIABLE.sub(one, text)


def variables(text: str) -> set[str]:
    """Return the variables in a text, including those in defaults."""
    found = set()
    for match in _VARIABLE.finditer(text):
        found |= {match["name"], *variables(match["rest"] or "")}
    return found


def environment(name: str, values: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a service's container gets in addition to its image's, with these values in .env."""
    found = {}
    for key, value in services()[name].get("environment", {}).items():
        if value is not None:
            found[key] = fill(str(value), values)
        elif key in values:
            found[key] = values[key]
    return found


def env_file(path: Path, *, commented: bool = False) -> dict[str, str]:
    """Return the lines NAME=value, optionally the commented-out ones too."""
    pattern = re.compile(rf"^{'#?' if commented else ''}([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)
    return dict(pattern.findall(path.read_text()))
