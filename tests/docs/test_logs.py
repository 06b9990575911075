"""docs/logs.md names every log event of the services, with its level, and no other."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "logs.md"
LEVELS = {"exception": "error"} | {one: one for one in ("debug", "info", "warning", "error")}
ROW = re.compile(r"^\| `(?P<event>\w+)` \| (?P<levels>[\w, ]+) \|", re.MULTILINE)


def logged(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Event and level of each call of a structlog logger in a module."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=logger, attr=method), args=[ast.Constant(str(event))]
            ) if method in LEVELS and re.fullmatch(r"log|structlog\..*", ast.unparse(logger)):
                yield event, LEVELS[method]


@cache
def events() -> dict[str, set[str]]:
    """The levels of every event in the code of the services."""
    found: dict[str, set[str]] = defaultdict(set)
    for folder in ("libs/common/src", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            for event, level in logged(ast.parse(path.read_text())):
                found[event].add(level)
    return found


def test_every_event_is_documented_with_its_levels_and_every_documented_one_exists() -> None:
    rows = {row["event"]: set(row["levels"].split(", ")) for row in ROW.finditer(PAGE.read_text())}
    assert rows == events()


def test_events_are_named_by_a_noun_and_what_became_of_it() -> None:
    assert [one for one in events() if not re.fullmatch(r"[a-z]+(_[a-z]+)+", one)] == []
