"""Counters, gauges and histograms, and that no label takes a value that was not declared."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from relais_common.runtime.metrics.exposition import new_registry
from relais_common.runtime.metrics.instruments import OTHER, Counter, Gauge, Histogram
from relais_common.runtime.metrics.labels import error_types
from relais_orchestrator.api import parsing
from relais_testing.scrape import read

ROOT = Path(__file__).resolve().parents[3]


def test_counters_add_up_and_begin_at_zero() -> None:
    registry = CollectorRegistry()
    counter = Counter(registry, "relais_things_total", "Things.", {"kind": ("a", "b")})
    counter.of("a").inc()
    counter.of("a").inc(2)
    seen = read(registry)
    assert seen.families["relais_things"].type == "counter"
    assert seen.of("relais_things_total", kind="a") == 3
    assert [sample.labels["kind"] for sample in seen.samples] == ["a", "b"]


def test_a_gauge_may_be_asked_for_its_value_and_forgets_what_is_no_longer_known() -> None:
    registry = CollectorRegistry()
    gauge = Gauge(registry, "relais_level", "Level.", {"kind": ("a", "b")})
    levels = [1, 2]
    gauge.read(lambda: levels[-1], "a")
    gauge.of("b").set(7)
    levels.append(3)
    assert (read(registry).of("relais_level", kind="a"), read(registry).of("relais_level")) == (
        3,
        10,
    )
    gauge.clear()
    assert read(registry).samples == []


@given(st.lists(st.floats(-10, 1e6)))
def test_a_histogram_counts_each_amount_in_every_bucket_that_it_fits_in(
    amounts: list[float],
) -> None:
    registry = CollectorRegistry()
    histogram = Histogram(registry, "relais_time_seconds", "Time.", buckets=(0.5, 1.0, 20.0)).of()
    for amount in amounts:
        histogram.observe(amount)
    seen = read(registry)
    for bound in (0.5, 1.0, 20.0):
        fits = sum(amount <= bound for amount in amounts)
        assert seen.of("relais_time_seconds_bucket", le=str(bound)) == fits
    assert seen.of("relais_time_seconds_bucket", le="+Inf") == len(amounts)
    assert seen.of("relais_time_seconds_count") == len(amounts)
    assert seen.of("relais_time_seconds_sum") == pytest.approx(sum(amounts))


def test_two_metrics_of_one_name_are_refused() -> None:
    registry = CollectorRegistry()
    Counter(registry, "relais_things_total", "Things.")
    with pytest.raises(ValueError, match="relais_things"):
        Counter(registry, "relais_things_total", "Other things.")


@given(st.lists(st.text(), max_size=50))
def test_what_a_label_does_not_declare_counts_as_other(hostile: list[str]) -> None:
    registry = CollectorRegistry()
    counter = Counter(
        registry, "relais_things_total", "Things.", {"model": ("a", "b"), "kind": ("x",)}
    )
    for value in hostile:
        counter.of(value, value).inc()
    seen = read(registry)
    assert len(seen.samples) <= counter.most_series
    assert {sample.labels["model"] for sample in seen.samples} <= {"a", "b", OTHER}
    assert seen.of("relais_things_total") == len(hostile)


def test_registries_of_one_process_share_nothing_of_ours() -> None:
    one, other = new_registry("relais-common"), new_registry("relais-common")
    Counter(one, "relais_things_total", "Things.").of().inc()
    assert read(one).of("relais_things_total") == 1
    assert "relais_things" not in read(other).families
    assert read(other).of("relais_build_info", service="common") == 1
    assert read(other).of("process_open_fds") > 0


def test_every_error_code_that_the_code_names_is_a_declared_error_type() -> None:
    named = set(parsing._CODES.values())
    for path in [*ROOT.glob("libs/*/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "code":
                named |= {
                    part.value
                    for part in ast.walk(node.value)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                }
    assert "invalid_json" in named
    assert {code for code in named if re.fullmatch("[a-z_]+", code)} <= error_types()
