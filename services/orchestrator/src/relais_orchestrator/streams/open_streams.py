"""Bounds the streams that each key has open at this server."""

from __future__ import annotations

from collections import Counter
from types import TracebackType

from relais_common.jobs.errors import TooManyStreams

RETRY_AFTER_S = 5.0


class Streams:
    """Bounds each key's open streams, and the non-streamed responses it waits for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    def of(self, key_id: str) -> _Place:
        """Count one more stream of the key inside the context.

        Raises:
            TooManyStreams: on entry, if the key is at its bound.
        """
        return _Place(self, key_id)

    def enter(self, key_id: str) -> None:
        """Count a stream of a key. Raises TooManyStreams."""
        if self._open[key_id] >= self._most:
            raise TooManyStreams(
                f"this key has {self._most} streams open at this server",
                retry_after_s=RETRY_AFTER_S,
            )
        self._open[key_id] += 1

    def leave(self, key_id: str) -> None:
        """Count a stream of a key no longer."""
        self._open[key_id] -= 1
        if self._open[key_id] == 0:
            del self._open[key_id]


class _Place:
    """One counted stream. Not a generator, which would cost half a kilobyte."""

    __slots__ = ("_key_id", "_streams")

    def __init__(self, streams: Streams, key_id: str) -> None:
        self._streams = streams
        self._key_id = key_id

    def __enter__(self) -> None:
        self._streams.enter(self._key_id)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._streams.leave(self._key_id)
