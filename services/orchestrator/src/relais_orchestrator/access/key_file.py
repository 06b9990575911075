"""Keeping the key ring as the file of keys says, without a restart."""

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

    Its content is compared, not its time: two changes within one tick of the file system's clock, or a link that points
    elsewhere, are seen like any other.

    Raises:
        SettingsError: it cannot be read, or has another form.
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
        """Look at the file for ever; give the ring what it says, then call `changed`.

        A file that is gone or wrong changes nothing: it is logged once, and the keys stay as they were.
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
        """Whether there was something new. Raises SettingsError."""
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
