"""Settings of the remote engine."""

from __future__ import annotations

from dataclasses import dataclass

from relais_common.config.llm_table import TableEntry


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
