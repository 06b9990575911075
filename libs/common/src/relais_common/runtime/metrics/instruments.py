"""Counters, gauges and histograms whose labels only take declared values.

prometheus_client serialises them. Its own instruments accept any label value and use a lock: an observation costs 1 us
there and 0.2 us here, and each token is one. These belong to one thread, the event loop's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, product
from math import prod
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

OTHER = "other"
"""The value that replaces undeclared label values."""

Labels = Mapping[str, Iterable[str]]
"""Each label's name and allowed values."""


class Value:
    """One series of a counter or gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1) -> None:
        self.value += amount


class Read:
    """One series whose value is read on scrape."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read

    @property
    def value(self) -> float:
        return self._read()


class Distribution:
    """One series of a histogram."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, amount: float) -> None:
        self.counts[bisect_left(self._bounds, amount)] += 1
        self.sum += amount


Series = TypeVar("Series")


class Instrument(Collector, Generic[Series]):
    """A metric and its series, by label values.

    Attributes:
        name: as in queries, without a histogram's suffixes.
        labels: the allowed values of each label, except `other`.
    """

    def __init__(
        self, registry: CollectorRegistry, name: str, documentation: str, labels: Labels
    ) -> None:
        self.name = name
        self.documentation = documentation
        self.labels = {label: frozenset(map(str, values)) for label, values in labels.items()}
        self._series: dict[tuple[str, ...], Series] = {}
        registry.register(self)

    @property
    def most_series(self) -> int:
        """The maximum number of series."""
        return prod(len(values) + 1 for values in self.labels.values())

    def key(self, values: Sequence[str | None]) -> tuple[str, ...]:
        """Return the declared values for these; None for a label that does not apply."""
        return tuple(
            "" if value is None else value if value in allowed else OTHER
            for value, allowed in zip(values, self.labels.values(), strict=True)
        )


class _Plain(Instrument[Value | Read]):
    """A metric whose series are single numbers."""

    def of(self, *values: str | None) -> Value:
        """Return the series of these label values, in the labels' order; created on first use."""
        key = self.key(values)
        series = self._series.get(key)
        if not isinstance(series, Value):
            series = self._series[key] = Value()
        return series

    def read(self, read: Callable[[], float], *values: str | None) -> None:
        """Read the value of this series on every scrape."""
        self._series[self.key(values)] = Read(read)

    def start_at_zero(self) -> None:
        """Create every declared series, so that its first increase is visible."""
        for values in product(*map(sorted, self.labels.values())):
            self.of(*values)


class Counter(_Plain):
    """A counter. With at most one label, all its series exist from the start, at zero."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        documentation: str,
        labels: Labels | None = None,
    ) -> None:
        super().__init__(registry, name, documentation, labels or {})
        if len(self.labels) <= 1:
            self.start_at_zero()

    def describe(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self.name, self.documentation, labels=tuple(self.labels))

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self.name, self.documentation, labels=tuple(self.labels))
        for values, series in self._series.items():
            family.add_metric(values, series.value)
        yield family


class Gauge(_Plain):
    """A gauge."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        documentation: str,
        labels: Labels | None = None,
    ) -> None:
        super().__init__(registry, name, documentation, labels or {})

    def clear(self) -> None:
        """Remove all series, because old values would mislead."""
        self._series.clear()

    def describe(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(self.name, self.documentation, labels=tuple(self.labels))

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self.name, self.documentation, labels=tuple(self.labels))
        for values, series in self._series.items():
            family.add_metric(values, series.value)
        yield family


class Histogram(Instrument[Distribution]):
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
        super().__init__(registry, name, documentation, labels or {})
        self.buckets = tuple(buckets)
        self._names = [*(str(float(bound)) for bound in self.buckets), "+Inf"]

    def of(self, *values: str | None) -> Distribution:
        """Return the series of these label values, in the labels' order; created on first use."""
        key = self.key(values)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Distribution(self.buckets)
        return series

    def describe(self) -> Iterable[Metric]:
        yield HistogramMetricFamily(self.name, self.documentation, labels=tuple(self.labels))

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self.name, self.documentation, labels=tuple(self.labels))
        for values, series in self._series.items():
            cumulative = [float(count) for count in accumulate(series.counts)]
            family.add_metric(values, list(zip(self._names, cumulative, strict=True)), series.sum)
        yield family
