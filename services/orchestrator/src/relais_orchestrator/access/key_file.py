"""Reloads the file of keys when it changes, without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from relais_common.config import api_keys
from relais_common.config.api_keys import ApiKey
from relais_common.jobs.errors import SettingsError
from relais_orchestrator.access.auth import KeyRing

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0


class KeyFile:
    """A file of keys that may change.

    It compares contents, not modification times, so it notices two changes within one tick of the file system's clock,
    and a link that points elsewhere.

    Raises:
        SettingsError: it cannot be read, or is not valid.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = api_keys.read_bytes(path)
        self._complaint = ""
        self.keys = api_keys.parse(self._content, path)
        _warn_of_weak(self.keys)

    async def follow(
        self, ring: KeyRing, changed: Callable[[], None], *, every_s: float = LOOK_EVERY_S
    ) -> None:
        """Watch the file for ever. On each change, update the key ring, then call `changed`.

        A missing or invalid file changes nothing: it is logged once, and the current keys stay.
        """
        while True:
            await asyncio.sleep(every_s)
            try:
                fresh = await asyncio.to_thread(self._read)
            except SettingsError as error:
                if self._complaint != str(error):
                    self._complaint = str(error)
                    log.error("api_keys_reload_failed", error=self._complaint)
                continue
            self._complaint = ""
            if not fresh:
                continue
            ring.replace(self.keys)
            log.info("api_keys_reloaded", clients=len(self.keys))
            _warn_of_weak(self.keys)
            changed()

    def _read(self) -> bool:
        """Read the file and return whether it changed. Raises SettingsError."""
        content = api_keys.read_bytes(self._path)
        if content == self._content:
            return False
        self.keys = api_keys.parse(content, self._path)
        self._content = content
        return True


def _warn_of_weak(keys: dict[str, ApiKey]) -> None:
    weak = sorted(client for client, key in keys.items() if key.weak)
    if weak:
        log.warning("api_keys_weak", clients=weak[:20], count=len(weak))
