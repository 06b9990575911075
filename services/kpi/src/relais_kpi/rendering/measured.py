"""Figures that are None if nothing was measured."""

from __future__ import annotations

from relais_common.insights.figures import Goodput, Latency


def p50(latency: Latency | None) -> float | None:
    """Return the median in seconds."""
    return None if latency is None else latency.p50_s


def p99(latency: Latency | None) -> float | None:
    """Return the 99th percentile in seconds."""
    return None if latency is None else latency.p99_s


def met(goodput: Goodput | None) -> float | None:
    """Return the share of requests that met all objectives."""
    return None if goodput is None else goodput.share
