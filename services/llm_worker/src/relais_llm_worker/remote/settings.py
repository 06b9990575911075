"""What the remote engine is told."""

from __future__ import annotations

from dataclasses import dataclass

from relais_common.config.llm_table import TableEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSettings:
    """Which servers, and how they are asked.

    Attributes:
        max_concurrency: of each server, where its entry says nothing else.
        read_timeout_s: the longest silence, before the first chunk of an answer and between two.
        probe_every_s: how often each server is looked at.
    """

    table: tuple[TableEntry, ...]
    max_concurrency: int
    connect_timeout_s: float
    read_timeout_s: float
    probe_every_s: float
