"""How many streams each key has open at this server."""

from __future__ import annotations

from collections import Counter
from types import TracebackType

from relais_common.jobs.errors import TooManyStreams

RETRY_AFTER_S = 5.0


class Streams:
    """A bound on each key's open streams; also on answers that come in one piece, while they are waited for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    def of(self, key_id: str) -> _Place:
        """Inside, the key has one more.

        Raises:
            TooManyStreams: on the way in, where it has as many as it may.
        """
        return _Place(self, key_id)

    def enter(self, key_id: str) -> None:
        if self._open[key_id] >= self._most:
            raise TooManyStreams(
                f"this key has {self._most} streams open at this server",
                retry_after_s=RETRY_AFTER_S,
            )
        self._open[key_id] += 1

    def leave(self, key_id: str) -> None:
        self._open[key_id] -= 1
        if self._open[key_id] == 0:
            del self._open[key_id]


class _Place:
    """One stream. Not a generator: those cost a stream half a kilobyte."""

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
