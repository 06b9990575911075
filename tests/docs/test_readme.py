"""README.md stays short, README.fr.md says the same, and every link and path in the documents leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READMES = ("README.md", "README.fr.md")
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "services/*/*.md", "infra/*/*.md", "examples/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
COMMAND = re.compile(r"`((?:[A-Z_]+=\S+ )?(?:\./scripts/|make )[^`]+)`")
MAX_LINES = 150


def anchors(page: str) -> set[str]:
    """The anchors that GitHub and GitLab give to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.strip().lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("name", READMES)
def test_readme_is_short_and_names_tests_that_exist(name: str) -> None:
    page = (ROOT / name).read_text()
    assert len(page.splitlines()) <= MAX_LINES
    paths = re.findall(r"\btests/[\w/.]+", page)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_both_readmes_have_the_same_commands_and_links() -> None:
    english, french = ((ROOT / name).read_text() for name in READMES)
    assert COMMAND.findall(english) == COMMAND.findall(french)
    blocks = re.compile(r"```(?:python|bash)\n(.*?)```", re.DOTALL)
    strip = re.compile(r"  #.*")
    assert [strip.sub("", one) for one in blocks.findall(english)] == [
        strip.sub("", one) for one in blocks.findall(french)
    ]
    assert set(LINK.findall(english)) ^ set(LINK.findall(french)) == set(READMES)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_headings_that_exist(name: str) -> None:
    path = ROOT / name
    dead = []
    for target in LINK.findall(path.read_text()):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file) if file else path
        if not there.exists() or (anchor and anchor not in anchors(there.read_text())):
            dead.append(target)
    assert dead == []
