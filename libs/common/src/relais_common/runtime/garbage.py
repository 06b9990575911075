"""Garbage collection in long-lived processes."""

from __future__ import annotations

import gc

THRESHOLDS = (5_000, 10, 50)
"""A full collection walks all that a process holds, and nothing else is done meanwhile: half a second with 10,000 open
streams. It finds next to nothing: requests leave hardly a cycle. One per 2.5 million new objects comes seldom, and
bounds what cycles may hold."""


def collect_seldom() -> None:
    """Run full garbage collections rarely; each one pauses the event loop."""
    gc.set_threshold(*THRESHOLDS)


def keep_what_is_there() -> None:
    """Exclude all current objects from garbage collection, until `release`."""
    gc.collect()
    gc.freeze()


def release() -> None:
    """Collect everything collectable, at the end of a process."""
    gc.unfreeze()
    gc.collect()
