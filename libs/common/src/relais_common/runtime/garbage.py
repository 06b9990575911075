"""Garbage collection in long-lived processes."""

from __future__ import annotations

import gc

THRESHOLDS = (5_000, 10, 50)
"""A full collection walks all that a process holds, and nothing else is done meanwhile: half a second with 10,000 open
streams. It finds next to nothing: requests leave hardly a cycle. One per 2.5 million new objects comes seldom, and
bounds what cycles may hold."""


def relax_gc_thresholds() -> None:
    """Run full garbage collections rarely; each one pauses the event loop."""
    gc.set_threshold(*THRESHOLDS)


def freeze_startup_objects() -> None:
    """Exclude all current objects from garbage collection, until `release`."""
    gc.collect()
    gc.freeze()


def release() -> None:
    """Collect everything collectable, at the end of a process."""
    gc.unfreeze()
    gc.collect()


def forget_frames(error: BaseException | None) -> None:
    """Let an error that was dealt with hold nothing of where it was raised.

    An error that is raised out of a variable is in a cycle with that frame: whatever the frames below hold, a request's
    body for instance, would stay until a full collection.
    """
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
