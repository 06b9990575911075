"""What the streams of one kind send, and whether a request's response has begun."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

RESPONSE_BEGUN: web.RequestKey[bool] = web.RequestKey("response_begun", bool)
"""Set once headers are sent, when an error can no longer be a status."""


@dataclass(slots=True)
class Traffic:
    """Counters of one kind of stream.

    Attributes:
        begun: streams whose headers were sent.
        ended: of these, streams that have ended.
        resumed: of these, streams whose client already had events.
        frames: frames sent, without comments.
        cut: streams whose client read too slowly.
    """

    begun: int = 0
    ended: int = 0
    resumed: int = 0
    frames: int = 0
    sent_bytes: int = 0
    keepalives: int = 0
    cut: int = 0


TRAFFIC: web.RequestKey[Traffic] = web.RequestKey("traffic", Traffic)
"""The counters for a request's stream."""
