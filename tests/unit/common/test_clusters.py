"""The addresses of a Redis Cluster."""

from __future__ import annotations

import pytest

from relais_common.jobs.errors import SettingsError
from relais_common.queue.client.address import redis_url
from relais_common.queue.client.clusters import parse


def test_nodes_and_credentials_are_told_apart() -> None:
    found = parse("redis+cluster://:p%40ss@10.0.0.1,10.0.0.2:7000,[fd00::1]:7001")

    assert found.nodes == (("10.0.0.1", 6379), ("10.0.0.2", 7000), ("fd00::1", 7001))
    assert found.url_of(("fd00::1", 7001)) == "redis://:p%40ss@[fd00::1]:7001"
    assert found.url_of(("10.0.0.9", 7000)) == "redis://:p%40ss@10.0.0.9:7000"
    assert "p%40ss" not in repr(found)


def test_tls_is_spoken_to_all() -> None:
    assert parse("rediss+cluster://a,b").url_of(("b", 6379)) == "rediss://b:6379"


@pytest.mark.parametrize(
    "url", ["redis+cluster://", "redis+cluster://:secret@a,,b", "redis+cluster://:secret@a/3"]
)
def test_what_cannot_be_read_is_said_without_the_password(url: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as refused:
        redis_url({"REDIS_URL": url})

    assert "secret" not in str(refused.value)


def test_it_is_taken_as_a_setting() -> None:
    assert redis_url({"REDIS_URL": "redis+cluster://a,b,c"}) == "redis+cluster://a,b,c"
