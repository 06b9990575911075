"""Changes the file of keys atomically, one change at a time, and keeps its permissions."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from relais_common.config import api_keys

NEW_FILE_MODE = 0o600


@contextmanager
def changing(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the file's entries, to be changed in place. They are written when the context ends without an error.

    Raises:
        SettingsError: the current or the new content is not a valid file of keys.
        OSError: it cannot be written.
    """
    # A link stays a link: its target is replaced.
    path = path.resolve()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # The folder, because each change replaces the file itself.
        fcntl.flock(folder, fcntl.LOCK_EX)
        content = api_keys.read_bytes(path) if path.exists() else b"{}"
        api_keys.parse(content, path)
        entries = api_keys.load(content, path)
        yield entries
        content = orjson.dumps(entries, option=orjson.OPT_INDENT_2) + b"\n"
        api_keys.parse(content, path)
        _replace(path, content)
        os.fsync(folder)
    finally:
        os.close(folder)


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            _take_over_rights(path, file.fileno())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _take_over_rights(path: Path, handle: int) -> None:
    """Copy owner and mode of the old file, because the orchestrator that reads it is often another user."""
    try:
        old = path.stat()
    except FileNotFoundError:
        os.fchmod(handle, NEW_FILE_MODE)
        return
    mine = os.fstat(handle)
    if (old.st_uid, old.st_gid) != (mine.st_uid, mine.st_gid):
        os.fchown(handle, old.st_uid, old.st_gid)
    os.fchmod(handle, old.st_mode & 0o7777)
