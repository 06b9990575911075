"""`relais config check`: one look tells all."""

from __future__ import annotations

from pathlib import Path

import pytest

import relais_embedding_worker.settings
import relais_kpi.settings
import relais_llm_worker.settings
import relais_orchestrator.settings
from relais_admin.config.command import main, problems_of_file
from relais_admin.config.readers import installed_readers

COMPOSE = Path(__file__).resolve().parents[3] / "infra" / "compose"
READERS = {
    "embedding-worker": relais_embedding_worker.settings.read_settings,
    "kpi": relais_kpi.settings.read_settings,
    "llm-worker": relais_llm_worker.settings.read_settings,
    "orchestrator": relais_orchestrator.settings.read_settings,
}
RIGHT = """
ENV=prod
CI_DEPLOY_HOST=relais.example.org
COMPOSE_PROFILES=gpu,proxy
REDIS_PASSWORD=0123456789abcdef
MONGODB_PASSWORD=0123456789abcdef
API_KEYS=/etc/relais/keys/api_keys.json
VLLM_HF_REPO_ID=org/model
MODELS=org/model
"""


def test_every_service_brings_its_reader() -> None:
    assert installed_readers() == READERS


def test_nothing_is_wrong_with_what_is_right() -> None:
    assert problems_of_file(RIGHT, READERS) == []
    assert problems_of_file((COMPOSE / ".env.example").read_text(), READERS) == []


@pytest.mark.parametrize("env", ["staging", "prod"])
def test_an_example_lacks_its_passwords_alone(env: str) -> None:
    text = (COMPOSE / f"{env}.env.example").read_text()
    assert problems_of_file(text, READERS) == [
        "REDIS_PASSWORD still has its example's value",
        "MONGODB_PASSWORD still has its example's value",
    ]


def test_all_that_is_wrong_is_told_at_once() -> None:
    text = """
ENV=staging
COMPOSE_PROFILES=gpu,remote
REDIS_PASSWORD=short
MONGODB_PASSWORD=a/b@c
API_PORT=80800
LLM_TABLE=[("m", "http://127.0.0.1:8081")]
RERANK_TABLE=[("r", "http://localhost:8082")]
VLLM_TENSOR_PARALLEL_SIZE=4
VLLM_GPU_MEMORY_UTILIZATION=90
LEASE_S=soon
LEASE_S=later
DRAIN_S=120
MAX_STORED_BYTES=4294967296
MAX_WAITINGS=5
this is no line
"""
    found = problems_of_file(text, READERS)

    for start in (
        "line 16 is no NAME=value",
        "LEASE_S is set twice",
        "CI_DEPLOY_HOST is not set",
        "REDIS_PASSWORD has 5 characters",
        "MONGODB_PASSWORD takes letters",
        "API_PORT is '80800'",
        "LLM_WORKER_GPUS is '1'; VLLM_TENSOR_PARALLEL_SIZE=4",
        "LLM_TABLE has http://127.0.0.1:8081",
        "RERANK_TABLE has http://localhost:8082",
        "MODELS lacks 'relais-demo'",
        "REDIS_MAXMEMORY is too small",
        "STOP_GRACE_PERIOD is 40s; DRAIN_S=120",
        "LEASE_S is 'later'",
        "VLLM_GPU_MEMORY_UTILIZATION is 90",
        "API_KEYS is not set; with ENV=staging",
        "MAX_WAITINGS is no setting; is MAX_WAITING meant?",
    ):
        assert any(one.startswith(start) for one in found), (start, found)
    assert len(found) == 16, found


@pytest.mark.parametrize("secret", ["REDIS_PASSWORD", "MONGODB_PASSWORD"])
def test_a_secret_is_named_and_never_shown(secret: str) -> None:
    found = problems_of_file(
        RIGHT.replace(f"{secret}=0123456789abcdef", f"{secret}=se/cret"), READERS
    )
    assert found == [f"{secret} takes letters, digits and . _ ~ - only"]


def test_the_command_tells_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prod.env"
    file.write_text(RIGHT)
    assert main(["check", "--env-file", str(file)]) == 0
    file.write_text(RIGHT + "API_PORT=x\n")
    assert main(["check", "--env-file", str(file)]) == 2
    assert "  API_PORT is 'x'" in capsys.readouterr().err
    assert main(["check", "--env-file", str(tmp_path / "none")]) == 2
