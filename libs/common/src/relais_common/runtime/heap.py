"""Returns freed memory to the system."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
TRIM_BYTES = 1 << 20
SMALL_BYTES = 48 << 10
"""Less than a piece of a large answer and than what is read of a socket at once: hundreds of these lived among small
blocks that stayed, and 65 MB with them."""
WORKER_SMALL_BYTES = 1 << 20
"""A worker allocates tensors in blocks; each separately mapped block costs page faults."""


def give_back(small_bytes: int = SMALL_BYTES) -> None:
    """Make glibc map every block over `small_bytes` separately, so that it returns to the system when it is freed.

    By default glibc raises this bound, up to 32 MiB, with each larger block that is freed. The bodies and answers of a
    burst are then cut out of one heap, which never shrinks below the last small block among them. `malloc_trim` would
    empty such a heap too, but it holds the lock of every allocation for as long as it looks.

    Does nothing with other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, small_bytes)
        mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES)
