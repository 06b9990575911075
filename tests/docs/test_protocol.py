"""docs/protocol.md names every key, event and script of the code, and no other."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from relais_common.jobs.channels import model_tag
from relais_common.jobs.limits import USAGE_DAYS
from relais_common.queue import codec, keys, scripts
from relais_common.queue.source.redis_source import PATIENCE

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text()


def section(title: str) -> str:
    """The text under a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def first_column(text: str) -> set[str]:
    """What stands in backticks at the start of each table row."""
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


def keys_in_code() -> set[str]:
    """Every name that `keys` can spell, with placeholders in place of arguments."""
    placeholders = {
        "model": "<model>",
        "priority": "<priority>",
        "key_id": "<key id>",
        "key_hash": "<hash>",
        "image_hash": "<hash>",
        "worker_id": "<worker id>",
        "watcher_id": "<watcher id>",
        "limit": "<limit>",
        "day": "<day>",
        "at": "<at>",
    }
    channel_id = f"{model_tag('<model>')}.{'0' * 22}"
    names = {keys.WORKERS, keys.SIGNING_SECRET}
    for name, function in inspect.getmembers(keys, inspect.isfunction):
        if function.__module__ != keys.__name__ or name in ("model_base", "channel_base"):
            continue
        arguments = [
            channel_id if parameter == "channel_id" else placeholders[parameter]
            for parameter in inspect.signature(function).parameters
        ]
        spelt: str = function(*arguments)
        names.add(spelt.replace(channel_id, "<channel>").replace(model_tag("<model>"), "<model>"))
    return names


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    assert first_column(section("Names")) == keys_in_code()


def test_every_event_is_documented() -> None:
    assert first_column(section("Messages")) == {name.decode() for name in codec.NAMES.values()}


def test_every_script_is_documented() -> None:
    assert first_column(section("Steps")) == set(scripts.NAMES)


def test_the_ageing_bound_is_the_code_s() -> None:
    assert f"a priority that {PATIENCE} jobs have overtaken" in PAGE


def test_accounts_are_kept_as_long_as_the_page_says() -> None:
    assert f"HASH, {USAGE_DAYS} days" in PAGE
    assert f"USAGE_DAYS = {USAGE_DAYS}" in scripts.source("finish")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[\w/.]+)`", PAGE))))
def test_tests_that_the_page_names_exist(path: str) -> None:
    assert (Path(__file__).resolve().parents[2] / path).exists()
