"""Dashboard and alerts ask for metrics, labels, values and buckets that the code has; Prometheus agrees with them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from relais_common.queue.metrics import StoreMetrics
from relais_common.runtime.metrics.exposition import LoopLag, new_registry
from relais_common.runtime.metrics.instruments import Histogram, Instrument
from relais_common.worker.metrics import WorkerMetrics
from relais_orchestrator.metrics.queues import QueueMetrics
from relais_orchestrator.metrics.requests import RequestMetrics
from relais_orchestrator.metrics.streams import StreamMetrics
from relais_orchestrator.metrics.traces import TraceMetrics
from relais_testing.memory import MemoryStore
from relais_testing.waiting import LIVENESS_S

FOLDER = Path(__file__).resolve().parents[2] / "infra" / "monitoring"
TARGET_LABELS = {"job", "instance"}
"""What Prometheus adds to every series."""

NOT_OURS = {"up", "process_open_fds", "process_max_fds", "process_resident_memory_bytes"}
METRIC = re.compile(r"\b(?P<name>relais_\w+)(?:\{(?P<selector>[^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
WORDS = re.compile(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\bby\s*\([^)]*\)|\b[a-z_][a-z0-9_]*\b')
FUNCTIONS = {"sum", "max", "min", "rate", "increase", "delta", "histogram_quantile", "and", "or"}


@dataclass(frozen=True)
class Known:
    """What one series of the code may be asked by."""

    labels: frozenset[str]
    values: dict[str, frozenset[str]]


def known_series() -> dict[str, Known]:
    """Every name that a scraper sees, with its labels and their closed values."""
    store = MemoryStore()
    registry = new_registry("relais-orchestrator")
    registries = [registry]
    for make in (
        lambda one: WorkerMetrics(one, ("m",)),
        lambda one: RequestMetrics(one, ("m",), {"/v1/models"}, ()),
        StreamMetrics,
        lambda one: QueueMetrics(one, store.inspector, store, ("m",)),
        lambda one: TraceMetrics(one, ("m",)),
        StoreMetrics,
        LoopLag,
    ):
        registries.append(CollectorRegistry())
        make(registries[-1])
    found: dict[str, Known] = {}
    for one in registries:
        for instrument in one._collector_to_names:
            if isinstance(instrument, Instrument):
                found |= series_of(instrument)
    return found


def series_of(instrument: Instrument[Any]) -> dict[str, Known]:
    labels = frozenset(instrument.labels)
    values = {name: frozenset(allowed) for name, allowed in instrument.labels.items()}
    plain = Known(labels, values)
    if not isinstance(instrument, Histogram):
        return {instrument.name: plain}
    bounds = frozenset((*(str(float(bound)) for bound in instrument.buckets), "+Inf"))
    return {
        f"{instrument.name}_bucket": Known(labels | {"le"}, values | {"le": bounds}),
        f"{instrument.name}_sum": plain,
        f"{instrument.name}_count": plain,
    }


KNOWN = known_series()


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    return board


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]


@pytest.mark.parametrize(
    "expression", [pytest.param(expr, id=name) for name, expr in expressions()]
)
def test_an_expression_asks_for_what_the_code_has(expression: str) -> None:
    asked = [(match["name"], match["selector"] or "") for match in METRIC.finditer(expression)]
    labels: set[str] = set()
    for name, selector in asked:
        assert name in KNOWN
        labels |= KNOWN[name].labels
        matchers = MATCHER.findall(selector)
        assert MATCHER.sub("", selector).strip(" ,") == "", selector
        for label, operator, value in matchers:
            assert label in KNOWN[name].labels | TARGET_LABELS, name
            allowed = KNOWN[name].values.get(label)
            if allowed is not None and operator in ("=", "!=") and "$" not in value:
                assert value in allowed, (name, label, value)
            if allowed is not None and operator in ("=~", "!~") and "$" not in value:
                assert any(re.fullmatch(value, one) for one in allowed), (name, label, value)
    for group in GROUPING.findall(expression):
        assert {one.strip() for one in group.split(",")} <= labels | TARGET_LABELS
    bare = METRIC.sub("", expression)
    words = {one for one in WORDS.findall(bare) if one[0] not in '"{[' and not one.startswith("by")}
    assert words <= FUNCTIONS | NOT_OURS | {"job"}
    assert expression.count("(") == expression.count(")")
    # A gauge of Redis's state is told by every orchestrator: never the sum of them.
    for name, _ in asked:
        if name in SHARED:
            assert re.search(rf"(max|min)( by \([^)]*\))? \((delta\()?{name}", expression), name


SHARED = {
    name
    for name in KNOWN
    if name.startswith(
        ("relais_num_requests_waiting", "relais_oldest_", "relais_workers", "relais_dead")
    )
    or name
    in ("relais_num_requests_suspect", "relais_estimated_wait_seconds", "relais_traces_waiting")
}


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "action"}


def test_panels_have_a_place_of_their_own_and_say_what_they_show() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"]


def test_every_job_that_is_scraped_is_one_that_the_alerts_watch() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    jobs = [one["job_name"] for one in config["scrape_configs"]]
    assert jobs
    assert all(re.fullmatch(r"relais-.+", job) for job in jobs)
    assert config["rule_files"] == ["alerts.yaml"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yaml"),
        ("check", "rules", "alerts.yaml"),
        ("test", "rules", "alerts.test.yaml"),
    ],
)
def test_prometheus_itself_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    assert shutil.which("promtool") is not None, (
        "promtool is missing: install it (Debian, Ubuntu: sudo apt-get install prometheus)"
    )
    done = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=LIVENESS_S
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_known_series_are_those_of_a_scrape() -> None:
    """The check above would let anything pass if it knew no metric."""
    assert {
        "relais_redis_up",
        "relais_event_loop_lag_seconds_bucket",
        "relais_takes_total",
    } <= KNOWN.keys()
    assert "continued" in KNOWN["relais_takes_total"].values["kind"]
