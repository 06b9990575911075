"""The file of API keys: both forms, and every way to get it wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relais_common.config import api_keys
from relais_common.config.api_keys import ApiKey, digest
from relais_common.jobs.errors import SettingsError
from relais_common.jobs.job import Priority

ROOT = Path(__file__).resolve().parents[3]
PATH = Path("keys.json")
HASH = api_keys.hash_text("key-of-two")


def parsed(content: Any) -> dict[str, ApiKey]:
    return api_keys.parse(json.dumps(content).encode(), PATH)


def test_name_and_key_are_enough() -> None:
    (one,) = parsed({"client1": "key-of-one"}).values()
    assert one == ApiKey(digests=(digest("key-of-one"),))
    assert (one.admin, one.models, one.max_priority) == (False, None, Priority.HIGH)
    assert (one.requests_per_minute, one.tokens_per_minute) == (None, None)
    assert (one.concurrent_requests, one.structured_outputs) == (None, None)


def test_fuller_form_has_a_hash_and_limits() -> None:
    entry = {
        "hash": HASH,
        "admin": True,
        "models": ["org/model", "other"],
        "max_priority": "normal",
        "requests_per_minute": 60,
        "tokens_per_minute": 1000,
        "tokens_per_day": 1_000_000_000,
        "concurrent_requests": 4,
        "structured_outputs": ["regex"],
    }
    assert parsed({"two": entry})["two"] == ApiKey(
        digests=(digest("key-of-two"),),
        admin=True,
        models=frozenset(("org/model", "other")),
        max_priority=Priority.NORMAL,
        requests_per_minute=60,
        tokens_per_minute=1000,
        tokens_per_day=1_000_000_000,
        concurrent_requests=4,
        structured_outputs=frozenset(("regex",)),
    )


def test_key_in_clear_and_its_hash_are_the_same_key() -> None:
    assert parsed({"a": {"key": "key-of-two"}}) == parsed({"a": {"hash": HASH}})


def test_client_may_have_two_keys_while_it_changes_from_one_to_the_other() -> None:
    other = api_keys.hash_text("new")
    assert parsed({"a": {"hash": [HASH, other]}})["a"].digests == (
        digest("key-of-two"),
        digest("new"),
    )


def test_file_may_be_empty_of_keys_so_that_the_last_can_be_revoked() -> None:
    assert parsed({}) == {}


def test_shipped_example_is_valid_and_has_both_forms() -> None:
    keys = api_keys.read_file(ROOT / "api_keys.example.json")
    assert keys["client1"] == ApiKey(digests=keys["client1"].digests)
    assert any(key.requests_per_minute for key in keys.values())
    assert any(key.admin for key in keys.values())


def test_generated_key_has_256_bits_and_is_not_weak() -> None:
    keys = {api_keys.generate() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert key.startswith("rk-")
        assert len(key) == 3 + 43
        assert not api_keys.is_weak(key)


@pytest.mark.parametrize(
    "key", ["key", "password", "a" * 64, "0123456789", "abababababababababababab"]
)
def test_guessable_key_is_weak(key: str) -> None:
    assert api_keys.is_weak(key)
    assert parsed({"a": key})["a"].weak
    assert not parsed({"a": {"hash": api_keys.hash_text(key)}})["a"].weak


SECRET = "s3cr3t"
WRONG: list[Any] = [
    [],
    ["s3cr3t"],
    "s3cr3t",
    {"one": ""},
    {"one": " s3cr3t"},
    {"one": {}},
    {"one": None, "two": "s3cr3t"},
    {"one": ["s3cr3t"]},
    {"one": {"s3cr3t": 1}},
    {"one": {"key": ""}},
    {"one": {"key": ["s3cr3t"], "admin": True}},
    {"one": {"key": "s3cr3t", "hash": HASH}},
    {"one": {"key": "s3cr3t", "admin": 1}},
    {"one": {"key": "s3cr3t", "admin": "true"}},
    {"one": {"key": "s3cr3t", "admin": None}},
    {"one": {"key": "s3cr3t", "amdin": True}},
    {"one": {"admin": True}, "two": "s3cr3t"},
    {"one": {"hash": "s3cr3t"}},
    {"one": {"hash": HASH.upper()}},
    {"one": {"hash": HASH[:-1]}},
    {"one": {"hash": []}},
    {"one": {"hash": [HASH, 1]}},
    {"one": {"key": "s3cr3t", "models": "org/model"}},
    {"one": {"key": "s3cr3t", "models": [""]}},
    {"one": {"key": "s3cr3t", "models": [1]}},
    {"one": {"key": "s3cr3t", "max_priority": "highest"}},
    {"one": {"key": "s3cr3t", "max_priority": 1}},
    {"one": {"key": "s3cr3t", "structured_outputs": "regex"}},
    {"one": {"key": "s3cr3t", "structured_outputs": ["json"]}},
    {"one": {"key": "s3cr3t", "structured_outputs": [["regex"]]}},
    {"one": {"key": "s3cr3t", "tokens_per_day": 10**12}},
    *(
        {"one": {"key": "s3cr3t", name: value}}
        for name in ("requests_per_minute", "tokens_per_minute", "concurrent_requests")
        for value in (0, -1, 1.5, "60", True, None, 10**9)
    ),
    {"one": "s3cr3t", "two": "s3cr3t"},
    {"one": {"key": "s3cr3t"}, "two": {"hash": api_keys.hash_text("s3cr3t")}},
    {"": "s3cr3t"},
    {"a b": "s3cr3t"},
    {"a\n": "s3cr3t"},
    {"x" * 129: "s3cr3t"},
]


@pytest.mark.parametrize(
    "content", [*(json.dumps(one) for one in WRONG), SECRET, '{"one": "s3cr3t"']
)
def test_wrong_file_names_the_setting_and_prints_no_key(content: str) -> None:
    with pytest.raises(SettingsError) as caught:
        api_keys.parse(content.encode(), PATH)
    assert str(caught.value).startswith(f"API_KEYS: {PATH}")
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_wrong_entry_names_its_client() -> None:
    with pytest.raises(SettingsError, match=r"'two'.*max_priority"):
        parsed({"one": "x", "two": {"key": "y", "max_priority": 3}})


def test_file_that_cannot_be_read_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^API_KEYS: cannot read .*: No such file"):
        api_keys.read_file(tmp_path / "nothing.json")
    with pytest.raises(SettingsError, match=r"^API_KEYS: cannot read"):
        api_keys.read_file(tmp_path)


def test_key_shows_in_no_text_of_its_entry() -> None:
    entry = parsed({"a": "key-of-one"})["a"]
    assert "key-of-one" not in repr(entry)
    assert digest("key-of-one").hex() not in repr(entry)
