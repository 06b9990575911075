"""What vLLM tells of itself: how busy it is, and its own metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from vllm.v1.metrics.loggers import StatLoggerBase

from relais_llm_worker.engines.engine import EngineLoad


class LoadGauge(StatLoggerBase):
    """Keeps the scheduler's last report of its load."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self.load = EngineLoad(waiting=0, kv_cache_usage=0.0)
        self._steps = 0

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        self._steps += 1
        if scheduler_stats is not None:
            self.load = EngineLoad(
                waiting=scheduler_stats.num_waiting_reqs,
                kv_cache_usage=scheduler_stats.kv_cache_usage,
                steps=self._steps,
            )

    def log_engine_initialized(self) -> None:
        """Do nothing."""


class VllmMetrics(Collector):
    """vLLM's own metrics, which it records whether or not they are exposed.

    Given a stat logger of ours, it adds its own Prometheus logger, which knows no registry but the default one.
    """

    def collect(self) -> Iterable[Metric]:
        return [metric for metric in REGISTRY.collect() if metric.name.startswith("vllm:")]
