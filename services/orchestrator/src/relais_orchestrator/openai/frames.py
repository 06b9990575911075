"""A channel's events as the frames of an OpenAI stream. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson

from relais_common.events import Completed, Event, Token
from relais_orchestrator import sse
from relais_orchestrator.openai.formats import Format

DONE = sse.data_frame(b"[DONE]")


class Frames:
    """Writes one stream: a frame per token, whatever comes together."""

    def __init__(self, shape: Format, *, include_usage: bool) -> None:
        self._shape = shape
        self._include_usage = include_usage

    def head(self) -> bytes:
        """What comes before any event."""
        head = self._shape.head()
        return b"" if head is None else sse.data_frame(orjson.dumps(head))

    def of(self, events: Iterable[Event]) -> bytes:
        """Frames of these events; empty where they have nothing to show."""
        return b"".join(frame for event in events for frame in self._frames(event))

    def _frames(self, event: Event) -> Iterator[bytes]:
        if isinstance(event, Token):
            if event.text:
                yield sse.data_frame(orjson.dumps(self._shape.text(event.text)))
        elif isinstance(event, Completed):
            yield sse.data_frame(orjson.dumps(self._shape.finish(event.finish_reason)))
            if self._include_usage:
                yield sse.data_frame(orjson.dumps(self._shape.usage(event.usage)))
            yield DONE
