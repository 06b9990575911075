"""`LLM_TABLE`: what it takes, and one clear error for all else."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relais_common.config.server_table import (
    TableEntry,
    read_mapping,
    read_server_table,
    shown_url,
)
from relais_common.jobs.errors import SettingsError
from relais_common.runtime import environ

PAIR = TableEntry("org/m", "http://h:1")


def read_table(text: str) -> tuple[TableEntry, ...]:
    return read_server_table("LLM_TABLE", text, TableEntry)


@pytest.mark.parametrize(
    "text",
    [
        '[("org/m", "http://h:1")]',
        "[('org/m', 'http://h:1/v1')]",
        '[["org/m", "http://h:1/v1/"]]',
        '(("org/m", "http://h:1/"),)',
        '("org/m", "http://h:1")',
        '["org/m", "http://h:1"]',
        '[{"model": "org/m", "url": "http://h:1"}]',
        ' [\n("org/m", "http://h:1"),\n] ',
    ],
)
def test_a_pair_is_read_in_either_notation_with_v1_or_without(text: str) -> None:
    assert read_table(text) == (PAIR,)


def test_several_servers_of_one_model_and_their_own_keys() -> None:
    text = """[("m", "http://a"), {"model": "m", "url": "https://b/x/v1", "api_key": "k", "max_concurrency": 3}]"""
    assert read_table(text) == (
        TableEntry("m", "http://a"),
        TableEntry("m", "https://b/x", "k", 3),
    )


@pytest.mark.parametrize("text", ["", "  ", "[]", "()"])
def test_an_empty_table_is_none(text: str) -> None:
    assert read_table(text) == ()


def test_a_path_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps([["org/m", "http://h:1"]]))
    assert read_table(str(path)) == (PAIR,)


@pytest.mark.parametrize(
    "text",
    [
        "nowhere.json",
        "/",
        "[",
        "[(",
        "[1]",
        "[('m',)]",
        "[('m', 'http://h', 3)]",
        "[('m', 1)]",
        "[('', 'http://h')]",
        "[('m', 'h:1')]",
        "[('m', 'ftp://h')]",
        "[('m', 'http://')]",
        "[('m', 'http://h:x')]",
        "[('m', 'http://h:99999')]",
        "[('m', 'http://h?a=b')]",
        "[{'model': 'm'}]",
        "[{'model': 'm', 'url': 'http://h', 'key': 'k'}]",
        "[{'model': 'm', 'url': 'http://h', 'api_key': 'a b'}]",
        "[{'model': 'm', 'url': 'http://h', 'api_key': ''}]",
        "[{'model': 'm', 'url': 'http://h', 'max_concurrency': 0}]",
        "[{'model': 'm', 'url': 'http://h', 'max_concurrency': True}]",
        "[{'model': 'm', 'url': 'http://user:pass@h', 'api_key': 'k'}]",
        "{'m': 'http://h'}",
        "[('m', __import__('os').getcwd())]",
        "[" * 5000,
    ],
)
def test_anything_else_is_one_error_that_names_the_setting(text: str) -> None:
    with pytest.raises(SettingsError, match="LLM_TABLE") as caught:
        read_table(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{'model': 'm'}", "takes .* model, url and optionally api_key"),
        ("{'model': 'm', 'url': 'http://h', 'max_concurrency': 0}", "max_concurrency takes"),
        ("{'model': 'm', 'url': 'http://h', 'api_key': 'a b'}", "api_key takes"),
    ],
)
def test_error_names_the_entry_and_what_it_takes(entry: str, says: str) -> None:
    with pytest.raises(SettingsError, match=f"^LLM_TABLE, entry 2:? {says}"):
        read_table(f"[('m', 'http://h'), {entry}]")


@given(st.text())
def test_no_text_gives_another_error(text: str) -> None:
    with suppress(SettingsError):
        read_table(text)


def test_no_key_is_shown() -> None:
    entries = read_table(
        "[('m', 'http://user:pass@h:1'), {'model': 'm', 'url': 'http://h:1', 'api_key': 's3cr3t'}]",
    )
    assert "s3cr3t" not in repr(entries)
    assert "pass" not in repr(entries)
    assert shown_url(entries[0].url) == "http://h:1"
    with pytest.raises(SettingsError) as caught:
        read_table("[{'model': 'm', 'url': 'http://user:pass@h:x', 'api_key': 's3cr3t'}]")
    assert "s3cr3t" not in str(caught.value)
    assert "pass" not in str(caught.value)


def test_models_are_those_of_both_settings() -> None:
    table = "[('a', 'http://h'), ('b', 'http://h'), ('a', 'http://i')]"
    assert environ.models({"LLM_TABLE": table}) == ("a", "b")
    assert environ.models({"LLM_TABLE": table, "MODELS": "m,b"}) == ("m", "b", "a")
    assert environ.models({}) == environ.models({"LLM_TABLE": ""}) == ("relais-demo",)


@pytest.mark.parametrize("text", ['{"a": "b"}', "{'a': 'b'}"])
def test_mapping_is_read_in_either_notation(text: str) -> None:
    assert read_mapping("X", text) == {"a": "b"}
    assert read_mapping("X", "") == {}


@pytest.mark.parametrize("text", ["{1: 'b'}", "{'a': 1}", "[]", "{'a'}", "{", "a=b"])
def test_other_mappings_are_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match="NAMES"):
        read_mapping("NAMES", text)
