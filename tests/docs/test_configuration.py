"""docs/configuration.md names every setting that the code reads, with its default, and no other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import relais_embedding_worker.settings
import relais_kpi.settings
import relais_llm_worker.settings
import relais_orchestrator.settings
from relais_testing.recording import RecordingEnviron

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
ROW = re.compile(r"^\| `(?P<name>[A-Z_]+)` \| (?:`(?P<default>[^`]*)`)? *\|", re.MULTILINE)


def documented(*titles: str) -> dict[str, str | None]:
    """Settings and defaults in the tables under these headings."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    wanted = [section for section in sections if section.split("\n", 1)[0] in titles]
    assert len(wanted) == len(titles)
    return {row["name"]: row["default"] for section in wanted for row in ROW.finditer(section)}


READERS = [
    pytest.param(relais_orchestrator.settings.read_settings, ["Orchestrator"], id="orchestrator"),
    pytest.param(
        relais_llm_worker.settings.read_settings, ["Both workers", "LLM worker"], id="llm_worker"
    ),
    pytest.param(
        relais_embedding_worker.settings.read_settings,
        ["Both workers", "Embedding worker"],
        id="embedding_worker",
    ),
]


@pytest.mark.parametrize(("read", "titles"), READERS)
def test_every_setting_is_documented_and_every_documented_one_is_read(
    read: Callable[[Mapping[str, str]], object], titles: list[str]
) -> None:
    environ = RecordingEnviron({})
    read(environ)
    assert environ.asked == documented("All services", *titles).keys()


@pytest.mark.parametrize(("read", "titles"), READERS)
def test_documented_defaults_are_the_code_s(
    read: Callable[[Mapping[str, str]], object], titles: list[str]
) -> None:
    defaults = {
        name: default for name, default in documented("All services", *titles).items() if default
    }
    assert read(defaults) == read({})


KPI = {"MONGODB_URL": "mongodb://host"}
"""The only setting without which nothing can be read."""


def test_every_setting_of_the_kpi_job_is_documented_with_its_default() -> None:
    environ = RecordingEnviron(KPI)
    relais_kpi.settings.read_settings(environ)
    settings = documented("relais kpi")
    assert environ.asked == settings.keys()

    defaults = {name: default for name, default in settings.items() if default}
    read = relais_kpi.settings.read_settings
    assert read(KPI | defaults) == read(KPI)
