"""docs/metrics.md names every metric of ours, with its type and labels, and no other; vLLM's names are vLLM's."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from relais_common.queue.metrics import StoreMetrics
from relais_common.runtime.metrics.exposition import LoopLag, new_registry
from relais_common.runtime.metrics.instruments import Instrument
from relais_common.worker.metrics import WorkerMetrics
from relais_llm_worker.remote.metrics import RemoteMetrics
from relais_orchestrator.metrics.batches import BatchMetrics
from relais_orchestrator.metrics.queues import QueueMetrics
from relais_orchestrator.metrics.requests import RequestMetrics
from relais_orchestrator.metrics.streams import StreamMetrics
from relais_orchestrator.metrics.traces import TraceMetrics
from relais_testing.memory import MemoryStore

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
ROW = re.compile(
    r"^\| `(?P<name>relais_\w+)` \| (?P<type>\w+) \|(?P<labels>[^|]*)\|(?P<vllm>[^|]*)\|",
    re.MULTILINE,
)
MODELS = ("a-model",)

Described = tuple[str, str, tuple[str, ...]]


def described(registry: CollectorRegistry) -> set[Described]:
    """Name, type and labels of every metric of ours."""
    return {
        (instrument.name, family.type, tuple(instrument.labels))
        for instrument in registry._collector_to_names
        if isinstance(instrument, Instrument)
        for family in instrument.collect()
    }


def worker(registry: CollectorRegistry) -> None:
    WorkerMetrics(registry, MODELS)
    RemoteMetrics(registry, MODELS)


def orchestrator(registry: CollectorRegistry) -> None:
    store = MemoryStore()
    RequestMetrics(registry, MODELS, {"/v1/models"}, ())
    StreamMetrics(registry)
    QueueMetrics(registry, store.inspector, store, MODELS)
    TraceMetrics(registry, MODELS)
    BatchMetrics(registry)


def both(registry: CollectorRegistry) -> None:
    StoreMetrics(registry)
    LoopLag(registry)


def documented(title: str) -> list[re.Match[str]]:
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    [section] = [one for one in sections if one.split("\n", 1)[0] == title]
    return list(ROW.finditer(section))


@pytest.mark.parametrize(
    ("make", "title"), [(worker, "LLM worker"), (orchestrator, "Orchestrator"), (both, "Both")]
)
def test_every_metric_is_documented_with_its_type_and_labels_and_every_documented_one_exists(
    make: Callable[[CollectorRegistry], None], title: str
) -> None:
    registry = new_registry("relais-common") if title == "Both" else CollectorRegistry()
    make(registry)
    rows = {
        (row["name"], row["type"], tuple(re.findall(r"`(\w+)`", row["labels"])))
        for row in documented(title)
    }
    assert rows == described(registry)


def test_names_of_vllm_are_those_of_the_installed_vllm() -> None:
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    loggers = Path(spec.submodule_search_locations[0]) / "v1" / "metrics" / "loggers.py"
    there = set(re.findall(r'name="(vllm:\w+)"', loggers.read_text()))
    named = {
        name
        for row in documented("LLM worker") + documented("Orchestrator")
        for name in re.findall(r"`(vllm:\w+)`", row["vllm"])
    }
    assert len(named) > 10
    assert named <= there


def test_queries_name_metrics_that_exist() -> None:
    known = {
        row["name"] for title in ("LLM worker", "Orchestrator", "Both") for row in documented(title)
    }
    queries = PAGE.read_text().partition("```promql")[2].partition("```")[0]
    used = set(re.findall(r"relais_\w+", queries))
    assert used
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in used} <= known
