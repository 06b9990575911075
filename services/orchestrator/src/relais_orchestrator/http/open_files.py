"""Raises the limit of open files, and so of connections."""

from __future__ import annotations

import resource


def allow_most_open_files() -> int:
    """Raise the soft limit of open files to the hard limit, and return it.

    Each open stream is a file, and many systems have a soft limit of 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
