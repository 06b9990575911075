"""Metrics of streams and their traffic."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry

from relais_common.runtime.metrics import buckets
from relais_common.runtime.metrics.instruments import Counter, Gauge, Histogram
from relais_orchestrator.http.traffic import Traffic


class StreamMetrics:
    """Stream metrics of one orchestrator.

    Attributes:
        native, openai: counters of these routes' streams.
        delivered: observes the seconds between the receipt of events and the end of their delivery.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.native, self.openai = Traffic(), Traffic()
        by_api = {"native": self.native, "openai": self.openai}

        def shown(
            kind: type[Counter | Gauge],
            name: str,
            documentation: str,
            read: Callable[[Traffic], int],
        ) -> None:
            instrument = kind(registry, name, documentation, {"api": by_api})
            for api, traffic in by_api.items():
                instrument.read(partial(read, traffic), api)

        shown(
            Gauge,
            "relais_sse_clients",
            "Streams that are open.",
            lambda traffic: traffic.begun - traffic.ended,
        )
        shown(
            Counter,
            "relais_sse_streams_total",
            "Streams that began.",
            lambda traffic: traffic.begun,
        )
        shown(
            Counter,
            "relais_sse_resumptions_total",
            "Streams that began after a Last-Event-ID.",
            lambda traffic: traffic.resumed,
        )
        shown(
            Counter,
            "relais_sse_frames_sent_total",
            "Frames handed to sockets; comments do not count.",
            lambda traffic: traffic.frames,
        )
        shown(
            Counter,
            "relais_sse_sent_bytes_total",
            "Bytes of frames and comments handed to sockets.",
            lambda traffic: traffic.sent_bytes,
        )
        shown(
            Counter,
            "relais_sse_keepalives_total",
            "Comments sent in silences.",
            lambda traffic: traffic.keepalives,
        )
        shown(
            Counter,
            "relais_sse_slow_readers_total",
            "Streams cut off because their client read too slowly.",
            lambda traffic: traffic.cut,
        )
        self.delivered = (
            Histogram(
                registry,
                "relais_delivery_seconds",
                "From the receipt of live events to the end of the write that carried them, or of their being "
                "added to an answer in one piece.",
                buckets=buckets.DELAY_S,
            )
            .of()
            .observe
        )
