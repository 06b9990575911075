"""What vLLM tells of itself: how busy it is, and its own metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from vllm.v1.metrics.loggers import StatLoggerBase

from relais_llm_worker.engine import EngineLoad


class LoadGauge:
    """The load of an AsyncLLM: of one engine, or of several with data parallelism."""

    def __init__(self) -> None:
        self._reports: list[_LastReport] = []

    def of_one_engine(self, vllm_config: Any, engine_index: int = 0) -> StatLoggerBase:
        """The factory that AsyncLLM calls for each engine."""
        self._reports.append(_LastReport(vllm_config, engine_index))
        return self._reports[-1]

    @property
    def engines(self) -> int:
        return len(self._reports)

    @property
    def load(self) -> EngineLoad:
        if len(self._reports) == 1:
            return self._reports[0].load
        loads = [report.load for report in self._reports]
        return EngineLoad(
            waiting=sum(load.waiting for load in loads),
            kv_cache_usage=max(load.kv_cache_usage for load in loads),
            steps=sum(load.steps for load in loads),
        )


class _LastReport(StatLoggerBase):
    """Keeps the last report of one engine's scheduler."""

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
