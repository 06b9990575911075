"""Settings: what is wrong is one error that names the setting."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relais_common.jobs.errors import SettingsError
from relais_common.queue.client.address import redis_url
from relais_common.runtime import environ

Reader = Callable[[dict[str, str]], object]


@pytest.mark.parametrize("unset", [{}, {"X": ""}, {"X": "  "}])
def test_unset_or_empty_gives_the_default(unset: dict[str, str]) -> None:
    assert environ.text(unset, "X", "d") == "d"
    assert environ.optional_text(unset, "X") is None
    assert environ.words(unset, "X", "a, b") == ("a", "b")
    assert environ.choice(unset, "X", "a", ("a", "b")) == "a"
    assert environ.integer(unset, "X", 7) == 7
    assert environ.optional_integer(unset, "X") is None
    assert environ.number(unset, "X", 0.5) == 0.5
    assert environ.flag(unset, "X", True) is True
    assert environ.flag(unset, "X", False) is False


def test_values_are_read_without_the_space_around_them() -> None:
    assert environ.text({"X": " v "}, "X", "d") == "v"
    assert environ.words({"X": " a,,b , c"}, "X", "") == ("a", "b", "c")
    assert environ.choice({"X": "b"}, "X", "a", ("a", "b")) == "b"
    assert environ.integer({"X": " 12 "}, "X", 7) == 12
    assert environ.number({"X": "1e3"}, "X", 0.5) == 1000.0


@pytest.mark.parametrize("raw", ["1", "true", "TRUE", "yes", "On"])
def test_flag_is_on(raw: str) -> None:
    assert environ.flag({"X": raw}, "X", False) is True


@pytest.mark.parametrize("raw", ["0", "false", "No", "off"])
def test_flag_is_off(raw: str) -> None:
    assert environ.flag({"X": raw}, "X", True) is False


@pytest.mark.parametrize(
    ("read", "raw"),
    [
        (lambda env: environ.choice(env, "SOME_NAME", "a", ("a", "b")), "c"),
        (lambda env: environ.integer(env, "SOME_NAME", 1), "1.5"),
        (lambda env: environ.integer(env, "SOME_NAME", 1), "x"),
        (lambda env: environ.integer(env, "SOME_NAME", 1), "-1"),
        (lambda env: environ.integer(env, "SOME_NAME", 5, at_least=5), "4"),
        (lambda env: environ.integer(env, "SOME_NAME", 5, at_most=6), "7"),
        (lambda env: environ.optional_integer(env, "SOME_NAME", at_most=6), "7"),
        (lambda env: environ.number(env, "SOME_NAME", 1), "x"),
        (lambda env: environ.number(env, "SOME_NAME", 1), "nan"),
        (lambda env: environ.number(env, "SOME_NAME", 1), "-0.1"),
        (lambda env: environ.number(env, "SOME_NAME", 1, at_most=2), "inf"),
        (lambda env: environ.flag(env, "SOME_NAME", True), "maybe"),
    ],
)
def test_bad_value_is_one_error_that_names_the_setting(read: Reader, raw: str) -> None:
    with pytest.raises(SettingsError, match="SOME_NAME"):
        read({"SOME_NAME": raw})


@given(st.text(max_size=20))
def test_any_value_is_read_or_a_settings_error(raw: str) -> None:
    env = {"X": raw}
    readers: list[Callable[[], object]] = [
        lambda: environ.integer(env, "X", 1),
        lambda: environ.number(env, "X", 1.0),
        lambda: environ.flag(env, "X", True),
        lambda: environ.choice(env, "X", "a", ("a",)),
        lambda: redis_url({"REDIS_URL": raw}),
        lambda: redis_url({"REDIS_PORT": raw}),
    ]
    for read in readers:
        try:
            read()
        except SettingsError:
            pass


def test_redis_is_on_this_machine_by_default() -> None:
    assert redis_url({}) == "redis://127.0.0.1:6379/0"


def test_redis_address_is_made_of_its_parts() -> None:
    env = {"REDIS_HOST": "redis", "REDIS_PORT": "6380", "REDIS_PASSWORD": "p@ss/word:é#"}
    assert redis_url(env) == "redis://:p%40ss%2Fword%3A%C3%A9%23@redis:6380/0"


@pytest.mark.parametrize("url", ["redis://h:1/2", "rediss://u:p@h", "unix:///run/redis.sock"])
def test_redis_url_goes_before_its_parts(url: str) -> None:
    assert redis_url({"REDIS_URL": url, "REDIS_HOST": "other"}) == url


def test_bad_redis_url_is_refused_without_its_password() -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as refused:
        redis_url({"REDIS_URL": "http://:secret@host"})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_bad_redis_port_is_refused(port: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_PORT"):
        redis_url({"REDIS_PORT": port})


def test_models_of_other_kinds_are_models_too_and_of_one_kind() -> None:
    env = {
        "MODELS": "a",
        "EMBEDDING_MODELS": "b",
        "RERANK_MODELS": "c, c",
        "CLASSIFY_MODELS": "d",
    }
    assert environ.models(env) == ("a", "b", "c", "d")
    assert environ.model_kinds(env) == {"b": "embeddings", "c": "rerank", "d": "classify"}
    with pytest.raises(SettingsError, match=r"RERANK_MODELS has 'b'.* for embeddings too"):
        environ.model_kinds({**env, "RERANK_MODELS": "b"})
    with pytest.raises(SettingsError, match=r"CLASSIFY_MODELS has 'c'.* for rerank too"):
        environ.model_kinds({**env, "CLASSIFY_MODELS": "c"})


def test_models_of_tables_are_declared_as_of_their_kind() -> None:
    env = {
        "MODELS": "a",
        "EMBEDDING_MODELS": "b",
        "EMBEDDING_TABLE": '[("v", "http://h:1"), ("v", "http://h:2")]',
        "RERANK_TABLE": '[("r", "http://h:1")]',
        "CLASSIFY_TABLE": '[("c", "http://h:1")]',
    }
    assert environ.models(env) == ("a", "b", "v", "r", "c")
    assert environ.model_kinds(env) == {
        "b": "embeddings",
        "v": "embeddings",
        "r": "rerank",
        "c": "classify",
    }
    with pytest.raises(SettingsError, match=r"RERANK_TABLE has 'v'.* for embeddings too"):
        environ.model_kinds({**env, "RERANK_TABLE": '("v", "http://h:3")'})
    with pytest.raises(SettingsError, match="RERANK_TABLE, entry 1"):
        environ.model_kinds(
            {"RERANK_TABLE": '[{"model": "r", "url": "http://h", "query_prompt": "q"}]'}
        )
