"""The component for EMBEDDING_TABLE, RERANK_TABLE and CLASSIFY_TABLE, on top of an overlay."""

from __future__ import annotations

from pathlib import Path

import pytest

from relais_common.runtime import environ
from relais_embedding_worker.settings import read_settings
from relais_testing.manifests import render_with

TABLES = {
    "embedding_table.json": '[["vectors", "http://h:1"]]',
    "rerank_table.json": '[["scores", "http://h:2"]]',
}


@pytest.mark.parametrize(
    ("more", "declared"),
    [({}, {}), ({"classify_table.json": '[["classes", "http://h:3"]]'}, {"classes": "classify"})],
    ids=["no_classify_table", "all"],
)
def test_its_models_are_declared_and_served(
    tmp_path: Path, more: dict[str, str], declared: dict[str, str]
) -> None:
    rendered = render_with(
        "minikube-cpu",
        "remote-embedding-worker",
        {"relais-embedding-table": TABLES | more},
        tmp_path,
    )
    read = {}
    for name in ("orchestrator", "remote-embedding-worker"):
        workload = rendered.workloads[name]
        environment = rendered.environment(workload)
        for setting in ("EMBEDDING_TABLE", "RERANK_TABLE"):
            environment[setting] = rendered.mounted_file(workload, environment[setting])
        read[name] = environment

    remote = read_settings(read["remote-embedding-worker"]).remote
    assert remote is not None
    assert [one.model for one in remote.servers.table] == ["vectors", "scores", *declared]
    kinds = environ.model_kinds(read["orchestrator"])
    assert kinds.items() >= {"vectors": "embeddings", "scores": "rerank", **declared}.items()
    assert ("classes" in kinds) == bool(declared)


def test_it_reaches_its_servers(tmp_path: Path) -> None:
    rendered = render_with(
        "minikube-cpu",
        "remote-embedding-worker",
        {"relais-embedding-table": TABLES},
        tmp_path,
    )
    policy = rendered.one("NetworkPolicy", "to-embedding-table")
    assert rendered.selected(policy["spec"]["podSelector"]) == ["remote-embedding-worker"]
