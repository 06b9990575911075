"""Lists clients and their rights, for programs and for people. Shows no key and no hash."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from relais_common.config.api_keys import ApiKey


def as_objects(keys: dict[str, ApiKey]) -> list[dict[str, Any]]:
    """Return one JSON object per client; null means unlimited."""
    return [
        {
            "client": client,
            "keys": len(key.digests),
            "weak": key.weak,
            "admin": key.admin,
            "models": None if key.models is None else sorted(key.models),
            "max_priority": key.max_priority,
            "requests_per_minute": key.requests_per_minute,
            "tokens_per_minute": key.tokens_per_minute,
            "tokens_per_day": key.tokens_per_day,
            "concurrent_requests": key.concurrent_requests,
            "structured_outputs": None
            if key.structured_outputs is None
            else sorted(key.structured_outputs),
        }
        for client, key in sorted(keys.items())
    ]


def as_table(keys: dict[str, ApiKey]) -> Table:
    """Return the list as a table of 80 columns."""
    table = Table(box=None, pad_edge=False)
    table.add_column("CLIENT", overflow="fold")
    for title in ("KEYS", "REQ/MIN", "TOK/MIN", "AT ONCE"):
        table.add_column(title, justify="right")
    table.add_column("PRIORITY")
    table.add_column("MODELS", overflow="fold")
    for client, key in sorted(keys.items()):
        table.add_row(
            f"{client} (admin)" if key.admin else client,
            f"{len(key.digests)}{', weak' if key.weak else ''}",
            *(
                "" if rate is None else str(rate)
                for rate in (
                    key.requests_per_minute,
                    key.tokens_per_minute,
                    key.concurrent_requests,
                )
            ),
            key.max_priority,
            "all" if key.models is None else ", ".join(sorted(key.models)),
        )
    return table
