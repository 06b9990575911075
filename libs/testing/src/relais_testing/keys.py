"""A file of API keys that a test can change. The key of client `one` is `key-of-one`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def key_of(client: str) -> str:
    """Return the key of a client."""
    return f"key-of-{client}"


def dev_key_id(token: str) -> str:
    """Return the key id of a client with `ENV=dev`."""
    return f"dev-{hashlib.sha256(token.encode()).hexdigest()[:16]}"


def bearer(client: str) -> dict[str, str]:
    """Return the header with a client's key."""
    return {"Authorization": f"Bearer {key_of(client)}"}


class KeyFile:
    """The file. Rights that are not given are unlimited."""

    def __init__(self, path: Path, **clients: dict[str, Any]) -> None:
        self.path = path
        self.write(**clients)

    def write(self, **clients: dict[str, Any]) -> None:
        """Write a file with these clients and their rights."""
        entries = {name: {"key": key_of(name), **rights} for name, rights in clients.items()}
        self.write_text(json.dumps(entries))

    def write_text(self, content: str) -> None:
        """Replace the file in one step: an orchestrator that looks meanwhile sees none that is empty."""
        fresh = self.path.with_suffix(".fresh")
        fresh.write_text(content)
        fresh.replace(self.path)

    @property
    def settings(self) -> dict[str, str]:
        """Return the settings that name the file."""
        return {"ENV": "prod", "API_KEYS": str(self.path)}
