"""Decisions are numbered one after the other, in their file's name and in their title."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "decisions"


def test_each_decision_has_the_next_number() -> None:
    pages = sorted(FOLDER.glob("*.md"))
    for number, page in enumerate(pages, 1):
        assert re.fullmatch(rf"{number:04}-[a-z0-9-]+\.md", page.name)
        assert page.read_text().startswith(f"# {number}. ")
