"""prometheus_client's counters, gauges and histograms, with labels that only take declared values.

An observation costs 0.7 us, the look-up of its series 0.13 us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from math import prod
from typing import Generic, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

OTHER = "other"
"""The value that replaces undeclared label values."""

Labels = Mapping[str, Iterable[str]]
"""Each label's name and allowed values."""

Series = TypeVar("Series", bound=MetricWrapperBase)


class Instrument(Collector, Generic[Series]):
    """A metric whose series are created on first use.

    Args:
        metric: not registered; without labels, it is its only series.

    Attributes:
        name: as in queries, without a histogram's suffixes.
        labels: the allowed values of each label, except `other`.
    """

    def __init__(
        self, registry: CollectorRegistry, name: str, labels: Labels, metric: Series
    ) -> None:
        self.name = name
        self.labels = {label: frozenset(map(str, values)) for label, values in labels.items()}
        self._metric = metric
        self._known: dict[tuple[str | None, ...], Series] = {}
        registry.register(self)

    @property
    def most_series(self) -> int:
        """The maximum number of series."""
        return prod(len(values) + 1 for values in self.labels.values())

    def of(self, *values: str | None) -> Series:
        """Return the series of these label values, in the labels' order; None for a label that does not apply."""
        series = self._known.get(values)
        if series is None:
            declared = [
                "" if value is None else value if value in allowed else OTHER
                for value, allowed in zip(values, self.labels.values(), strict=True)
            ]
            series = self._metric.labels(*declared) if declared else self._metric
            if OTHER not in declared:
                self._known[values] = series
        return series

    def start_at_zero(self) -> None:
        """Create every declared series, so that its first increase is visible."""
        for values in product(*map(sorted, self.labels.values())):
            self.of(*values)

    def describe(self) -> Iterable[Metric]:
        """Return the metric without its values, for checks of names."""
        return self._metric.describe()

    def collect(self) -> Iterable[Metric]:
        """Return the metric with its values."""
        for family in self._metric.collect():
            # Nothing reads the time at which each series began.
            family.samples = [one for one in family.samples if not one.name.endswith("_created")]
            yield family


class Counter(Instrument[prometheus_client.Counter]):
    """A counter. With at most one label, all its series exist from the start, at zero."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        documentation: str,
        labels: Labels | None = None,
    ) -> None:
        labels = labels or {}
        self._reads: dict[prometheus_client.Counter, Callable[[], float]] = {}
        metric = prometheus_client.Counter(name, documentation, tuple(labels), registry=None)
        super().__init__(registry, name, labels, metric)
        if len(labels) <= 1:
            self.start_at_zero()

    def read(self, read: Callable[[], float], *values: str | None) -> None:
        """Read the value of this series on every scrape."""
        self._reads[self.of(*values)] = read

    def collect(self) -> Iterable[Metric]:
        """Return the metric with its values, after reading those that are read on scrape."""
        for series, read in self._reads.items():
            series.reset()
            series.inc(read())
        return super().collect()


class Gauge(Instrument[prometheus_client.Gauge]):
    """A gauge."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        documentation: str,
        labels: Labels | None = None,
    ) -> None:
        labels = labels or {}
        metric = prometheus_client.Gauge(name, documentation, tuple(labels), registry=None)
        super().__init__(registry, name, labels, metric)

    def read(self, read: Callable[[], float], *values: str | None) -> None:
        """Read the value of this series on every scrape."""
        self.of(*values).set_function(read)

    def clear(self) -> None:
        """Remove all series, because old values would mislead."""
        self._metric.clear()
        self._known.clear()


class Histogram(Instrument[prometheus_client.Histogram]):
    """A histogram."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        documentation: str,
        labels: Labels | None = None,
        *,
        buckets: Sequence[float],
    ) -> None:
        labels = labels or {}
        self.buckets = tuple(buckets)
        metric = prometheus_client.Histogram(
            name, documentation, tuple(labels), registry=None, buckets=self.buckets
        )
        super().__init__(registry, name, labels, metric)
