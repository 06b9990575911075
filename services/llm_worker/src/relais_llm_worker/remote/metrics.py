"""Metrics of servers' answers."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from relais_common.runtime.metrics.instruments import Counter
from relais_llm_worker.remote.chunks import IGNORED_FIELDS


class RemoteMetrics:
    """Metrics of one worker process with `ENGINE=remote`."""

    def __init__(self, registry: CollectorRegistry, models: Sequence[str]) -> None:
        self._ignored = Counter(
            registry,
            "relais_remote_values_ignored_total",
            "Values in servers' answers that are not OpenAI's, and were left out.",
            {"model_name": models, "field": IGNORED_FIELDS},
        )

    def ignored(self, model: str, field: str) -> None:
        """Count an omitted value of this field."""
        self._ignored.of(model, field).inc()
