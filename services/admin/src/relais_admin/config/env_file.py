"""Parses files of NAME=value lines, as Compose does."""

from __future__ import annotations

import re

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_COMMENT = re.compile(r"\s+#.*")


def parse(text: str) -> tuple[dict[str, str], list[str]]:
    """Return the values, and the problems of the file itself."""
    values: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None:
            problems.append(f"line {number} is no NAME=value")
            continue
        name, raw = match.groups()
        if name in values:
            problems.append(f"{name} is set twice, the second time in line {number}")
        values[name] = _unquoted(raw)
    return values, problems


def _unquoted(raw: str) -> str:
    if len(raw) >= 2 and raw[0] == raw[-1] and raw[0] in "'\"":
        return raw[1:-1]
    return _COMMENT.sub("", raw)
