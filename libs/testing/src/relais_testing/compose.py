"""What infra/compose says, read without Docker."""

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
"""Services that run this repository's code, and its folder."""

_VARIABLE = re.compile(
    r"(?<!\$)\$\{(?P<name>[A-Z_]+)(?:(?P<operator>:?[-?])(?P<rest>(?:[^{}]|\{[^{}]*\})*))?\}"
)


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]
    return found


def fill(text: str, values: Mapping[str, str]) -> str:
    """As Compose puts variables in: `${NAME}`, `${NAME-default}`, `${NAME:-default}`, `${NAME:?error}`."""

    def one(match: re.Match[str]) -> str:
        value = values.get(match["name"])
        operator = match["operator"] or ""
        if value is None or (operator.startswith(":") and not value):
            return fill(match["rest"], values) if operator.endswith("-") else ""
        return value

    return _VARIABLE.sub(one, text)


def variables(text: str) -> set[str]:
    """Names that Compose looks up in a text, in defaults too."""
    found = set()
    for match in _VARIABLE.finditer(text):
        found |= {match["name"], *variables(match["rest"] or "")}
    return found


def environment(name: str, values: Mapping[str, str]) -> dict[str, str]:
    """What the service's container gets beside what its image sets, where .env has these values."""
    found = {}
    for key, value in services()[name].get("environment", {}).items():
        if value is not None:
            found[key] = fill(str(value), values)
        elif key in values:
            found[key] = values[key]
    return found


def env_file(path: Path, *, commented: bool = False) -> dict[str, str]:
    """Lines NAME=value; those behind a # too, where they are wanted."""
    pattern = re.compile(rf"^{'#?' if commented else ''}([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)
    return dict(pattern.findall(path.read_text()))
