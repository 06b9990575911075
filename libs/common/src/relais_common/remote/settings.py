"""Settings of workers whose models run behind servers."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import structs

from relais_common.config.server_table import TableEntry
from relais_common.runtime import environ
from relais_common.runtime.environ import Environ


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSettings:
    """The servers, and how to use them.

    Attributes:
        max_concurrency: default number of places of a server.
        read_timeout_s: the longest silence, before the first chunk of an answer and between two.
        probe_every_s: time between two probes of a server.
    """

    table: tuple[TableEntry, ...]
    max_concurrency: int
    connect_timeout_s: float
    read_timeout_s: float
    probe_every_s: float


def read_remote_settings(
    env: Environ, table: tuple[TableEntry, ...], *, key_setting: str
) -> RemoteSettings:
    """Read and validate the settings. Raises SettingsError, which names the setting.

    Args:
        key_setting: names the key of the entries that have none.
    """
    key = environ.optional_text(env, key_setting)
    return RemoteSettings(
        table=tuple(
            entry if entry.api_key is not None else structs.replace(entry, api_key=key)
            for entry in table
        ),
        max_concurrency=environ.integer(env, "REMOTE_MAX_CONCURRENCY", 64, at_least=1),
        connect_timeout_s=environ.number(
            env, "REMOTE_CONNECT_TIMEOUT_S", 5.0, at_least=0.1, at_most=600
        ),
        read_timeout_s=environ.number(
            env, "REMOTE_READ_TIMEOUT_S", 120.0, at_least=0.1, at_most=86_400
        ),
        probe_every_s=environ.number(env, "REMOTE_PROBE_EVERY_S", 5.0, at_least=0.1, at_most=3600),
    )
