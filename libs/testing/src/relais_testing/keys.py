"""A file of API keys that a test changes as it goes. The key of client `one` is `key-of-one`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def key_of(client: str) -> str:
    return f"key-of-{client}"


def dev_key_id(token: str) -> str:
    """As an orchestrator names a client of `ENV=dev`."""
    return f"dev-{hashlib.sha256(token.encode()).hexdigest()[:16]}"


def bearer(client: str) -> dict[str, str]:
    """The header with which a client shows its key."""
    return {"Authorization": f"Bearer {key_of(client)}"}


class KeyFile:
    """The file; what is not said of a client is not limited."""

    def __init__(self, path: Path, **clients: dict[str, Any]) -> None:
        self.path = path
        self.write(**clients)

    def write(self, **clients: dict[str, Any]) -> None:
        """These clients and no others, each with its rights."""
        entries = {name: {"key": key_of(name), **rights} for name, rights in clients.items()}
        self.path.write_text(json.dumps(entries))

    @property
    def settings(self) -> dict[str, str]:
        """What an orchestrator needs to know of it."""
        return {"ENV": "prod", "API_KEYS": str(self.path)}
