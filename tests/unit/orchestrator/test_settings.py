"""The orchestrator's settings: every bad value is one error that names its setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from relais_common.jobs.errors import SettingsError
from relais_orchestrator.settings import Settings, read_settings

BAD = {
    "ENV": ["production", "DEV"],
    "API_PORT": ["http", "-1", "65536", "1.5"],
    "REDIS_URL": ["localhost:6379", "http://x"],
    "REDIS_PORT": ["0", "x", "65536"],
    "MODELS": ["m" * 161, "a," + "é" * 81],
    "MAX_BODY_BYTES": ["0", "1023", "4M"],
    "BODY_TIMEOUT_S": ["0", "x", "inf"],
    "IDLE_TIMEOUT_S": ["0", "x", "inf"],
    "MAX_CONNECTIONS": ["0", "-1", "many"],
    "MAX_CONNECTIONS_PER_ADDRESS": ["0", "-1", "many"],
    "MAX_HELD_BYTES_PER_KEY": ["0", "x"],
    "MAX_WAITING": ["0", "-1", "many"],
    "QUEUE_SHARDS": [
        "2",
        "[]",
        '{"relais-demo": 0}',
        '{"relais-demo": 33}',
        '{"relais-demo": 2.0}',
        '{"relais-demo": "2"}',
        '{"relais-demo": true}',
        '{"relais-demo": 1e999}',
        '{"unknown": 2}',
        '{"relais-demo\\n1": 2}',
        '{"relais-demo": 2',
        "/nowhere/at/all.json",
    ],
    "MAX_STREAMS_PER_KEY": ["0", "-1", "many"],
    "RESERVED_OUTPUT_TOKENS": ["-1", "many"],
    "MAX_STORED_BYTES": ["0", "16777215", "1G"],
    "MONGODB_URL": ["redis://x", "localhost"],
    "MONGODB_TIMEOUT_S": ["0", "x", "inf"],
    "TRACE_CONTENT": ["some"],
    "TRACE_RETENTION_DAYS": ["0", "x", "20001"],
    "TRACE_WRITE_EVERY_S": ["0", "x", "inf"],
    "MAX_WAITING_TRACES": ["0", "-1", "many"],
    "DEFAULT_DEADLINE_S": ["0", "nan", "soon"],
    "MAX_DEADLINE_S": ["0", "x", "nan", "inf"],
    "LOG_TTL_S": ["0", "x", "nan", "inf", "1e30"],
    "RESULT_TTL_S": ["1", "x", "inf"],
    "KEEPALIVE_S": ["0", "601", "x", "nan"],
    "WRITE_TIMEOUT_S": ["0", "x", "inf"],
    "WATCH_LEASE_S": ["0.1", "x", "nan"],
    "EVENTS_URL_TTL_S": ["0", "x", "inf"],
    "DRAIN_S": ["-1", "x", "inf"],
    "LEASE_S": ["0", "x", "nan"],
    "REAP_EVERY_S": ["0", "x", "inf"],
    "MAX_FAILURES": ["0", "x"],
    "UNKNOWN_FIELDS": ["drop"],
    "LOG_LEVEL": ["loud"],
    "LOG_FORMAT": ["xml"],
}


def test_defaults_serve_at_a_desk() -> None:
    settings = read_settings({})
    assert isinstance(settings, Settings)
    assert (settings.env, settings.api_keys, settings.port) == ("dev", None, 8080)
    assert settings.models == ("relais-demo",)
    assert settings.limits.result_ttl_s >= settings.limits.log_ttl_s


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_bad_value_is_one_error_that_names_its_setting(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({name: value})
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("env", ["staging", "prod"])
def test_only_dev_runs_without_keys(env: str) -> None:
    with pytest.raises(SettingsError, match="API_KEYS"):
        read_settings({"ENV": env})
    with pytest.raises(SettingsError, match="API_KEYS"):
        read_settings({"ENV": env, "API_KEYS": "  "})
    assert read_settings({"ENV": env, "API_KEYS": "keys.json"}).api_keys == Path("keys.json")


def test_unknown_fields_are_refused_where_clients_are_written() -> None:
    keys = {"API_KEYS": "keys.json"}
    assert not read_settings({}).ignore_unknown
    assert read_settings({"ENV": "staging", **keys}).ignore_unknown
    assert read_settings({"ENV": "prod", **keys}).ignore_unknown
    assert not read_settings({"ENV": "prod", **keys, "UNKNOWN_FIELDS": "refuse"}).ignore_unknown


def test_models_are_a_list() -> None:
    assert read_settings({"MODELS": " org/a , b,, "}).models == ("org/a", "b")


def test_password_is_in_no_text_of_the_settings() -> None:
    settings = read_settings({"REDIS_PASSWORD": "s3cr3t"})
    assert "s3cr3t" in settings.redis.url
    assert "s3cr3t" not in repr(settings)


def test_bad_redis_url_is_not_repeated_for_it_may_hold_a_password() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({"REDIS_URL": "valkey://:s3cr3t@host"})
    assert "s3cr3t" not in str(caught.value)
