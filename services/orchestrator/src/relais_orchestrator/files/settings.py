"""Settings of files: their bounds, and how long they are kept."""

from __future__ import annotations

from dataclasses import dataclass

from relais_common.runtime import environ
from relais_common.runtime.environ import Environ

DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLimits:
    """Bounds on files.

    Attributes:
        max_bytes: of one file.
        max_bytes_per_key: of all files of a key.
        retention_s: how long a file is kept that names no time itself.
    """

    max_bytes: int
    max_bytes_per_key: int
    retention_s: float


def read_file_limits(env: Environ) -> FileLimits:
    """Read `MAX_FILE_BYTES`, `MAX_FILE_BYTES_PER_KEY` and `FILE_RETENTION_DAYS`. Raises SettingsError."""
    max_bytes = environ.integer(env, "MAX_FILE_BYTES", 200 << 20, at_least=1024)
    return FileLimits(
        max_bytes=max_bytes,
        max_bytes_per_key=environ.integer(
            env, "MAX_FILE_BYTES_PER_KEY", max(10 << 30, max_bytes), at_least=max_bytes
        ),
        retention_s=DAY_S
        * environ.number(env, "FILE_RETENTION_DAYS", 30, at_least=0.05, at_most=20_000),
    )
