"""Whose forwarded addresses are believed, and how far."""

from __future__ import annotations

import pytest

from relais_common.jobs.errors import SettingsError
from relais_orchestrator.http.behind_proxy import TrustedProxies, is_plain
from relais_orchestrator.settings import read_settings

TRUSTED = TrustedProxies.parse(["127.0.0.1", "10.0.0.0/8", "::1"])


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("127.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("127.0.0.1", "203.0.113.9, 198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "198.51.100.7, 10.1.2.3", "198.51.100.7"),
        ("127.0.0.1", "10.9.9.9, 10.1.2.3", "10.9.9.9"),
        ("127.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
        ("::1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("127.0.0.1", "198.51.100.7, unknown", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_vouches_for(
    peer: str, forwarded_for: str, client: str
) -> None:
    assert TRUSTED.client(peer, forwarded_for) == client


def test_a_star_trusts_the_whole_chain() -> None:
    trusted = TrustedProxies.parse(["*"])

    assert trusted.client("192.0.2.1", "203.0.113.9, 198.51.100.7") == "203.0.113.9"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FORWARDED_ALLOW_IPS", "nginx"),
        ("CORS_ALLOW_ORIGINS", "example.org"),
        ("CORS_ALLOW_ORIGINS", "https://example.org/path"),
        ("API_ROOT_PATH", "relais"),
        ("API_ROOT_PATH", "/v1/relais"),
        ("API_ROOT_PATH", "/docs"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        read_settings({name: value})


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/models/org/name",
        "/v1/models/org%2Fname",
        "/v1/...",
        "/docs/a.b",
        "*",
        "",
        "/a%20b",
    ],
)
def test_a_path_that_all_servers_read_alike_is_plain(path: str) -> None:
    assert is_plain(path)


@pytest.mark.parametrize(
    "path",
    [
        "//x/metrics",
        "/v1//admin",
        "/v1/./admin",
        "/v1/../metrics",
        "/v1/..;/metrics",
        "/v1/%2E%2e/metrics",
        "/v1/.%2e",
        "/v1/admin%2fqueues",
        "/v1/models/..%2f..%2fmetrics",
        "/v1/models/x%2F%2f",
        "/v1\\admin",
        "/v1%5Cadmin",
        "/metrics%00",
    ],
)
def test_a_path_that_servers_read_differently_is_not(path: str) -> None:
    assert not is_plain(path)
