"""KEDA's metrics-api scaler, as it reads a page for Prometheus (pkg/scalers/metrics_api_scaler.go, KEDA 2.20)."""

from __future__ import annotations

import re

from relais_testing.scrape import Scraped

_SELECTOR = re.compile(r'(?P<name>[a-z_]+)\{(?P<label>[a-z_]+)="(?P<value>[^"]*)"\}')


def read_value(page: str, value_location: str) -> float | None:
    """The value of the first sample that has the labels; None is an error, at which KEDA leaves the replicas alone."""
    selector = _SELECTOR.fullmatch(value_location)
    assert selector is not None
    for sample in Scraped(page).samples:
        label = sample.labels.get(selector["label"])
        if sample.name == selector["name"] and label == selector["value"]:
            return sample.value
    return None


def wanted_replicas(value: float, target: int, *, most: int) -> int:
    """What KEDA and its autoscaler make of an AverageValue, after the cool-down: none where it is 0."""
    return min(-(-int(value) // target), most)
