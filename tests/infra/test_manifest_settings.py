"""What manifests set is what the services read, and what one says of models the others say too."""

from __future__ import annotations

import re
from pathlib import Path

from relais_common.runtime import environ
from relais_testing.manifest_settings import READERS, ours, settings_of
from relais_testing.manifests import ROOT, Rendered

# Read by the libraries, not by us.
FOREIGN = {
    "DO_NOT_TRACK",
    "HF_HUB_OFFLINE",
    "HOME",
    "MONGO_INITDB_ROOT_PASSWORD",
    "MONGO_INITDB_ROOT_USERNAME",
    "OMP_NUM_THREADS",
    "VLLM_CPU_OMP_THREADS_BIND",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_NO_USAGE_STATS",
}


def test_every_service_takes_its_settings(overlay: Rendered, tmp_path: Path) -> None:
    assert {workload.name for workload in ours(overlay)} <= READERS.keys()
    for workload in ours(overlay):
        settings_of(overlay, workload.name, tmp_path)


def test_every_variable_is_a_setting_or_a_library_s(overlay: Rendered) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))

    for workload in ours(overlay):
        assert not overlay.environment(workload).keys() - documented - FOREIGN, workload.name


def test_nobody_gets_a_secret_that_it_does_not_read(overlay: Rendered) -> None:
    readers = {"REDIS": READERS.keys() - {"kpi"}, "MONGODB": {"orchestrator", "kpi"}}

    for workload in ours(overlay):
        for prefix, names in readers.items():
            has = any(
                key.startswith((f"{prefix}_URL", f"{prefix}_PASSWORD"))
                for key in overlay.environment(workload)
            )
            assert has == (workload.name in names), (workload.name, prefix)


def test_every_declared_model_is_served_and_scaled(overlay: Rendered, tmp_path: Path) -> None:
    """Spelt in three places: where it is accepted, where it is served, and where its queue is looked up."""
    environment = overlay.environment(overlay.workloads["orchestrator"])
    table = overlay.workloads.get("remote-worker")
    remote = set()
    if table is not None:
        remote = {one.model for one in settings_of(overlay, table.name, tmp_path).remote.table}
    llm = settings_of(overlay, "llm-worker", tmp_path).engine.served_name
    vectors = settings_of(overlay, "embedding-worker", tmp_path)

    assert set(environ.words(environment, "MODELS", "")) == {llm}
    assert [*environ.model_kinds(environment)] == [vectors.encoders[0].served_name]
    assert set(settings_of(overlay, "orchestrator", tmp_path).models) == {
        llm,
        vectors.encoders[0].served_name,
        *remote,
    }
    scaled = {
        one["metadata"]["name"]: re.findall(r'model_name="([^"]+)"', str(one["spec"]["triggers"]))
        for one in overlay.of("ScaledObject")
    }
    assert scaled == {"llm-worker": [llm], "embedding-worker": [vectors.encoders[0].served_name]}


def test_another_worker_is_asked_for_before_all_are_full(overlay: Rendered, tmp_path: Path) -> None:
    capacity = {
        "llm-worker": settings_of(overlay, "llm-worker", tmp_path).engine.max_num_seqs,
        "embedding-worker": settings_of(overlay, "embedding-worker", tmp_path).bounds.max_requests,
    }
    for one in overlay.of("ScaledObject"):
        (trigger,) = one["spec"]["triggers"]
        assert int(trigger["metadata"]["targetValue"]) < capacity[one["metadata"]["name"]]


def test_a_model_has_as_many_gpus_as_it_is_split_over(overlay: Rendered, tmp_path: Path) -> None:
    worker = overlay.workloads["llm-worker"]
    gpus = int(worker.container["resources"]["limits"].get("nvidia.com/gpu", 0))

    assert (gpus > 0) == worker.container["image"].endswith("-cuda")
    if gpus:
        assert gpus == settings_of(overlay, worker.name, tmp_path).engine.tensor_parallel_size


def test_queues_fit_into_redis_and_redis_into_its_container(
    overlay: Rendered, tmp_path: Path
) -> None:
    redis = overlay.workloads.get("redis")
    if redis is None:
        return  # somebody else's
    config = overlay.mounted_file(redis, "/etc/redis/redis.conf")
    maxmemory = int(re.search(r"^maxmemory (\d+)gb$", config, re.MULTILINE)[1]) << 30  # type: ignore[index]
    limit = int(redis.container["resources"]["limits"]["memory"].removesuffix("Gi")) << 30
    settings = settings_of(overlay, "orchestrator", tmp_path)

    assert 1.5 * settings.limits.max_stored_bytes * len(settings.models) <= maxmemory
    assert maxmemory <= 0.6 * limit
    for line in (
        "appendonly yes",
        "maxmemory-policy noeviction",
        "include /run/redis/password.conf",
    ):
        assert line in config.splitlines()
