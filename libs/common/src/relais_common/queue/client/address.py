"""Reads the address of Redis from the environment."""

from __future__ import annotations

from urllib.parse import quote

from relais_common.jobs.errors import SettingsError
from relais_common.queue.client import clusters, sentinels
from relais_common.runtime import environ
from relais_common.runtime.environ import Environ

_REDIS_SCHEMES = (
    *("redis://", "rediss://", "unix://"),
    *sentinels.SCHEMES,
    *clusters.SCHEMES,
)


def redis_url(env: Environ) -> str:
    """Read `REDIS_URL`, or build it from `REDIS_HOST`, `REDIS_PORT` and `REDIS_PASSWORD`."""
    url = environ.optional_text(env, "REDIS_URL")
    if url is not None:
        try:
            if url.startswith(sentinels.SCHEMES):
                sentinels.parse(url)
            elif url.startswith(clusters.SCHEMES):
                clusters.parse(url)
        except ValueError as error:
            raise SettingsError(f"REDIS_URL: {error}") from None
        if not url.startswith(_REDIS_SCHEMES):
            raise SettingsError(
                "REDIS_URL takes a redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// address"
            )
        return url
    host = environ.text(env, "REDIS_HOST", "127.0.0.1")
    port = environ.integer(env, "REDIS_PORT", 6379, at_least=1, at_most=65535)
    password = environ.optional_text(env, "REDIS_PASSWORD")
    credentials = "" if password is None else f":{quote(password, safe='')}@"
    return f"redis://{credentials}{host}:{port}/0"
