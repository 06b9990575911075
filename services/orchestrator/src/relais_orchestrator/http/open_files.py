"""How many connections the system lets this process have."""

from __future__ import annotations

import resource


def allow_most_open_files() -> int:
    """Raise the soft limit of open files to the hard one, which is the operator's; the limit from now on.

    Each open stream is a file, and many systems begin with a soft limit of 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
