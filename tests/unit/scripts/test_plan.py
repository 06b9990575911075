"""Settings in, a run out."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stack.embedded_redis import redis_address
from stack.errors import StackError
from stack.model import Run
from stack.plan import Counts, Plan, make_plan, run_directory
from stack.start import admin_command
from stack.supervisord import render


@pytest.fixture
def root(tmp_path: Path) -> Path:
    model = tmp_path / "models" / "relais-demo"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    return tmp_path


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        yield port


@pytest.fixture
def free() -> str:
    """A port that was free a moment ago, and is not the default one, which may be in use here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def plan(
    root: Path,
    *,
    llm_workers: int = 1,
    embedding_workers: int = 0,
    mongodb: bool = False,
    **settings: str,
) -> Plan:
    counts = Counts(llm_workers=llm_workers, embedding_workers=embedding_workers, mongodb=mongodb)
    return make_plan(root, settings, counts)


def environment_of(made: Plan, name: str) -> Mapping[str, str]:
    """What one program gets."""
    (program,) = [one for one in made.run.programs if one.name == name]
    return {**made.environment, **program.environment}


def test_all_models_are_named_also_those_of_others(root: Path, free: str) -> None:
    table = '[("org/theirs", "http://127.0.0.1:1")]'
    run = plan(
        root, ENGINE="deterministic", LLM_TABLE=table, API_PORT=free, embedding_workers=1
    ).run
    vectors = run.embedding_model
    assert run.models_served == f"models relais-demo, org/theirs, {vectors}"
    assert admin_command(run).endswith(
        f"MODELS=relais-demo,org/theirs EMBEDDING_MODELS={vectors} ./relais admin queues"
    )


def test_demo_model_on_a_cpu_has_exact_and_small_settings(root: Path, free: str) -> None:
    made = plan(root, API_PORT=free, RELAIS_DEVICE="cpu")

    assert made.demo
    assert made.run.model == "relais-demo"
    assert made.environment["MODELS"] == "relais-demo"
    assert made.environment["VLLM_HF_REPO_ID"] == str(root / "models" / "relais-demo")
    assert environment_of(made, "llm_worker")["HF_HUB_OFFLINE"] == "1"
    assert environment_of(made, "llm_worker")["OMP_NUM_THREADS"] == "1"
    assert made.environment["VLLM_DTYPE"] == "float32"
    assert made.environment["VLLM_KV_CACHE_MEMORY_BYTES"] == str(256 << 20)
    assert made.environment["VLLM_TOOL_CALL_PARSER"] == "hermes"
    assert made.environment["VLLM_REASONING_PARSER"] == "deepseek_v3"


def test_what_the_user_set_is_kept(root: Path, free: str) -> None:
    made = plan(
        root,
        API_PORT=free,
        RELAIS_DEVICE="cpu",
        VLLM_DTYPE="bfloat16",
        SERVED_MODEL_NAME="mine",
        MODELS="mine,other",
    )

    assert made.run.model == "mine"
    assert made.environment["MODELS"] == "mine,other"
    assert made.environment["VLLM_DTYPE"] == "bfloat16"


def test_model_of_the_hub_keeps_its_name_and_may_be_fetched(root: Path, free: str) -> None:
    made = plan(root, API_PORT=free, VLLM_HF_REPO_ID="someone/some-model", RELAIS_DEVICE="cuda")

    assert not made.demo
    assert made.run.model == "someone/some-model"
    assert "HF_HUB_OFFLINE" not in environment_of(made, "llm_worker")
    assert "VLLM_DTYPE" not in made.environment
    assert "VLLM_TOOL_CALL_PARSER" not in made.environment


def test_absent_model_is_said(root: Path, free: str) -> None:
    with pytest.raises(StackError, match=r"there is no model in .*VLLM_HF_REPO_ID"):
        plan(root, API_PORT=free, VLLM_HF_REPO_ID="./nowhere")


def test_own_redis_means_no_embedded_one(root: Path, free: str) -> None:
    made = plan(root, API_PORT=free, REDIS_URL="redis://elsewhere:6379/0")

    assert [program.name for program in made.run.programs] == ["orchestrator", "llm_worker"]
    assert made.environment["REDIS_URL"] == "redis://elsewhere:6379/0"


def test_embedding_worker_has_the_carried_model_and_is_declared(root: Path, free: str) -> None:
    made = plan(root, API_PORT=free, RELAIS_DEVICE="cpu", embedding_workers=2)

    workers = [one for one in made.run.programs if one.name.startswith("embedding_worker")]
    assert [one.name for one in workers] == ["embedding_worker", "embedding_worker-2"]
    assert len({one.port for one in made.run.programs}) == 5
    assert made.run.embedding_model == made.environment["EMBEDDING_MODELS"] == "all-MiniLM-L6-v2"
    assert "EMBEDDING_ENGINE" not in made.environment
    # Two models share what Redis may hold.
    assert made.environment["MAX_STORED_BYTES"] == str(384 << 20)


def test_embedding_model_of_the_hub_may_be_fetched_though_the_llm_lies_here(
    root: Path, free: str
) -> None:
    made = plan(root, API_PORT=free, embedding_workers=1, EMBEDDING_MODEL="someone/some-encoder")

    assert made.run.embedding_model == "someone/some-encoder"
    assert "HF_HUB_OFFLINE" not in environment_of(made, "embedding_worker")
    assert environment_of(made, "llm_worker")["HF_HUB_OFFLINE"] == "1"


def test_folder_of_an_embedding_model_is_found_from_the_repository(root: Path, free: str) -> None:
    (root / "encoder").mkdir()
    made = plan(root, API_PORT=free, embedding_workers=1, EMBEDDING_MODEL="./encoder")

    assert made.run.embedding_model == "encoder"
    assert made.environment["EMBEDDING_MODEL"] == str(root / "encoder")
    with pytest.raises(StackError, match=r"there is no model in .*EMBEDDING_MODEL"):
        plan(root, API_PORT=free, embedding_workers=1, EMBEDDING_MODEL="./nowhere")


@pytest.mark.parametrize("setting", ["RERANK_MODELS", "CLASSIFY_MODELS"])
def test_reranker_or_classifier_is_declared_as_what_it_is(
    root: Path, free: str, setting: str
) -> None:
    name = "someone/model"
    declared: Any = {"EMBEDDING_MODEL": name, setting: name}
    made = plan(root, API_PORT=free, embedding_workers=1, **declared)

    assert (made.run.embedding_model, made.run.embedding_setting) == (name, setting)
    assert "EMBEDDING_MODELS" not in made.environment


def test_no_model_at_all_means_no_embedding_model_either(root: Path, free: str) -> None:
    made = plan(root, API_PORT=free, embedding_workers=1, ENGINE="deterministic")

    assert made.environment["EMBEDDING_ENGINE"] == "deterministic"
    assert made.run.embedding_model == "all-MiniLM-L6-v2"


def test_without_embedding_workers_no_such_model_is_declared(root: Path, free: str) -> None:
    made = plan(root, API_PORT=free, EMBEDDING_MODEL="./nowhere")

    assert made.run.embedding_model == ""
    assert "EMBEDDING_MODELS" not in made.environment


def test_wrong_setting_of_the_embedding_worker_is_said_before_anything_starts(
    root: Path, free: str
) -> None:
    with pytest.raises(StackError, match="EMBEDDING_DTYPE"):
        plan(root, API_PORT=free, embedding_workers=1, EMBEDDING_DTYPE="int3")


def test_mongodb_comes_along_where_the_user_has_none(root: Path, free: str) -> None:
    made = plan(root, API_PORT=free, mongodb=True)

    (mongo,) = [one for one in made.run.programs if one.name == "mongodb"]
    assert made.environment["MONGODB_URL"] == f"mongodb://127.0.0.1:{mongo.port}"
    assert "--sync-on-commit" in mongo.command
    stages = {one.name: one.stage for one in made.run.programs}
    # Orchestrators write their last traces before it ends.
    assert stages["redis"] < stages["mongodb"] < stages["orchestrator"] < stages["llm_worker"]
    assert made.run.keeps_traces


def test_port_of_mongodb_may_be_chosen(root: Path, free: str, taken: int) -> None:
    with pytest.raises(StackError, match="MONGODB_PORT"):
        plan(root, API_PORT=free, mongodb=True, MONGODB_PORT=str(taken))


def test_own_mongodb_means_no_embedded_one(root: Path, free: str) -> None:
    made = plan(root, API_PORT=free, mongodb=True, MONGODB_URL="mongodb://elsewhere")

    assert "mongodb" not in [one.name for one in made.run.programs]
    assert made.environment["MONGODB_URL"] == "mongodb://elsewhere"
    assert made.run.keeps_traces
    assert not plan(root, API_PORT=free).run.keeps_traces


def test_embedded_redis_keeps_its_data_and_its_password(root: Path, free: str) -> None:
    made = plan(root, API_PORT=free, REDIS_PASSWORD='p@ss "word"')

    assert "appendonly yes" in made.redis_config
    assert "appendfsync always" in made.redis_config
    assert "maxmemory-policy noeviction" in made.redis_config
    assert 'requirepass "p@ss \\"word\\""' in made.redis_config
    assert "p%40ss" in made.environment["REDIS_URL"]


def test_ports_of_several_processes_differ(root: Path, free: str) -> None:
    made = plan(root, API_PORT=free, llm_workers=3)

    ports = [program.port for program in made.run.programs]
    assert len(set(ports)) == len(ports) == 5


def test_table_of_models_gets_a_worker_of_its_own(root: Path, free: str) -> None:
    made = plan(root, API_PORT=free, LLM_TABLE='[("m", "http://h:1")]')

    workers = [program for program in made.run.programs if program.name.endswith("worker")]
    assert [program.name for program in workers] == ["llm_worker", "remote_worker"]
    assert "ENGINE" not in workers[0].environment
    assert workers[1].environment["ENGINE"] == "remote"
    assert len({program.port for program in workers}) == 2
    assert (made.run.model, made.environment["MODELS"]) == ("relais-demo", "relais-demo")


def test_table_of_embedding_models_gets_a_worker_of_its_own(root: Path, free: str) -> None:
    made = plan(root, API_PORT=free, EMBEDDING_TABLE='[("v", "http://h:1")]')

    workers = [program for program in made.run.programs if program.name.endswith("worker")]
    assert [program.name for program in workers] == ["llm_worker", "remote_embedding_worker"]
    assert workers[1].environment["EMBEDDING_ENGINE"] == "remote"


def test_remote_engine_alone_needs_no_model_here(root: Path, free: str) -> None:
    made = plan(root, API_PORT=free, ENGINE="remote", LLM_TABLE='[("m", "http://h:1")]')

    workers = [program.name for program in made.run.programs if program.name.endswith("worker")]
    assert (workers, made.run.model, made.demo) == (["llm_worker"], "m", False)
    usual = plan(root, API_PORT=free, ENGINE="remote")
    assert usual.run.model == "AgentPublic/fabrique-reference-2"
    assert usual.run.model in usual.environment["LLM_TABLE"]


@pytest.mark.parametrize("table", ["", "nowhere.json", "[('m', 'h')]"])
def test_bad_table_is_said(root: Path, free: str, table: str) -> None:
    with pytest.raises(StackError, match="LLM_TABLE"):
        plan(root, API_PORT=free, ENGINE="remote", LLM_TABLE=table)


@pytest.mark.parametrize("value", ["http", "0", "70000", "-1", "8080.0"])
def test_bad_port_is_named(root: Path, value: str) -> None:
    with pytest.raises(StackError, match="API_PORT is"):
        plan(root, API_PORT=value)


def test_taken_port_is_named_with_its_setting(root: Path, taken: int) -> None:
    with pytest.raises(StackError, match=rf"port {taken} on 127\.0\.0\.1 is taken: .* API_PORT"):
        plan(root, API_PORT=str(taken))


def test_run_directory_is_absolute(root: Path) -> None:
    assert run_directory(root, {}) == root / ".run"
    assert run_directory(root, {"RELAIS_RUN_DIR": "other"}) == root / "other"
    assert run_directory(root, {"RELAIS_RUN_DIR": "/elsewhere"}) == Path("/elsewhere")


def test_socket_fits_where_the_folder_is_deep(root: Path, free: str) -> None:
    made = plan(root, API_PORT=free, RELAIS_RUN_DIR=str(root / ("deep" * 40)))

    assert len(made.run.socket) < 108


def test_run_is_found_again(root: Path, free: str) -> None:
    run = plan(root, API_PORT=free).run
    Path(run.run_dir).mkdir()
    run.save()

    assert Run.load(Path(run.run_dir)) == run
    assert (Path(run.run_dir) / "run.json").stat().st_mode & 0o077 == 0


def test_run_of_another_version_is_found(root: Path, free: str) -> None:
    run = plan(root, API_PORT=free).run
    Path(run.run_dir).mkdir()
    run.save()
    path = Path(run.run_dir) / "run.json"
    raw = json.loads(path.read_text())
    for saved, later in ((raw, "models"), (raw["programs"][0], "stop_wait_s")):
        saved["earlier"] = True
        del saved[later]
    path.write_text(json.dumps(raw))

    found = Run.load(Path(run.run_dir))
    assert found is not None
    assert (found.run_id, found.socket, found.models) == (run.run_id, run.socket, ())
    assert found.programs == (replace(run.programs[0], stop_wait_s=40), *run.programs[1:])


def test_broken_run_file_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"run_id": ')

    assert Run.load(tmp_path) is None


def test_configuration_names_no_path(root: Path, free: str) -> None:
    run = plan(root, API_PORT=free).run

    text = render(run.programs)

    assert str(root) not in text
    assert text.count("[program:") == 3


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h:1/0", ("h", 1)),
        ("rediss://:p@h", ("h", 6379)),
        ("unix:///tmp/x.sock", None),
    ],
)
def test_address_of_a_redis_url(url: str, address: tuple[str, int] | None) -> None:
    assert redis_address(url) == address
