"""The addresses of a Redis behind Sentinels."""

from __future__ import annotations

import pytest

from relais_common.jobs.errors import SettingsError
from relais_common.queue.client.address import redis_url
from relais_common.queue.client.sentinels import parse


def test_sentinels_service_and_credentials_are_told_apart() -> None:
    found = parse(
        "redis+sentinel://:p%40ss@10.0.0.1,10.0.0.2:5000,[fd00::1],[fd00::2]:7/relais/3?sentinel_password=theirs"
    )

    assert found.sentinels == (
        ("10.0.0.1", 26379),
        ("10.0.0.2", 5000),
        ("fd00::1", 26379),
        ("fd00::2", 7),
    )
    assert found.service == "relais"
    assert found.server_url == "redis://:p%40ss@relais/3"
    assert found.password == "theirs"
    assert not found.tls
    assert "p%40ss" not in repr(found)
    assert "theirs" not in repr(found)


def test_tls_is_spoken_to_all() -> None:
    found = parse("rediss+sentinel://a,b/relais")

    assert found.tls
    assert found.server_url == "rediss://relais/0"
    assert found.password is None


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://:secret@a,b",
        "redis+sentinel://:secret@/relais",
        "redis+sentinel://:secret@a,,b/relais",
        "redis+sentinel://:secret@a/relais?db=1",
        "redis+sentinel://:secret@a/relais?nothing",
        "redis+sentinel://:secret@a/relais/x",
    ],
)
def test_what_cannot_be_read_is_said_without_the_password(url: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as refused:
        redis_url({"REDIS_URL": url})

    assert "secret" not in str(refused.value)


def test_it_is_taken_as_a_setting() -> None:
    url = "redis+sentinel://a,b,c/relais"

    assert redis_url({"REDIS_URL": url}) == url
