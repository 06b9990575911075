"""KEDA's metrics-api scaler, as it reads a page for Prometheus (pkg/scalers/metrics_api_scaler.go, KEDA 2.20)."""

from __future__ import annotations

import re

from relais_testing.scrape import Scraped

_SELECTOR = re.compile(r'(?P<name>[a-z_]+)\{(?P<label>[a-z_]+)="(?P<value>[^"]*)"\}')


def read_value(page: str, value_location: str) -> float | None:
    """Return the value of the first sample with these labels; None is an error, after which KEDA changes nothing."""
    selector = _SELECTOR.fullmatch(value_location)
    assert selector is not None
    for sample in Scraped(page).samples:
        label = sample.labels.get(selector["label"])
        if sample.name == selector["name"] and label == selector["value"]:
            return sample.value
    return None


def wanted_replicas(value: float, target: int, *, most: int) -> int:
    """Return the replicas that KEDA and its autoscaler choose for an AverageValue, after the cool-down."""
    return min(-(-int(value) // target), most)
