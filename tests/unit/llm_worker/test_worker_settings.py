"""The worker's settings: every bad value is one error that names its setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relais_common.jobs.errors import SettingsError
from relais_llm_worker.settings import NOT_VLLM_S, read_settings

BAD = {
    "ENGINE": ["gpt", "VLLM"],
    "VLLM_DTYPE": ["int4"],
    "VLLM_MAX_MODEL_LEN": ["0", "x", "-1"],
    "VLLM_MAX_NUM_SEQS": ["0", "x"],
    "VLLM_KV_CACHE_MEMORY_BYTES": ["1", "1G"],
    "VLLM_TENSOR_PARALLEL_SIZE": ["0", "x"],
    "VLLM_GPU_MEMORY_UTILIZATION": ["0", "1.1", "nan", "x"],
    "VLLM_ENFORCE_EAGER": ["maybe"],
    "VLLM_STRUCTURED_OUTPUTS_CONFIG": [
        "guidance",
        "[]",
        '{"backend": "auto"}',
        '{"backend": ["guidance"]}',
        '{"disable_any_whitespace": 1}',
        '{"reasoning_parser": "x"}',
    ],
    "VLLM_ENGINE_ARGS": ['--seed "1'],
    "STRUCTURED_OUTPUTS_CPU_S": ["0", "x", "nan"],
    "ENGINE_STALL_S": ["0", "x", "inf"],
    "DETERMINISTIC_TOKENS_PER_S": ["-1", "fast", "inf", "nan"],
    "WORKER_ID": ["a b", "a\tb"],
    "LEASE_S": ["0", "x", "nan"],
    "DRAIN_S": ["-1", "x", "inf"],
    "HEARTBEAT_S": ["0", "x"],
    "REAP_EVERY_S": ["0", "x"],
    "MAX_FAILURES": ["0", "x"],
    "MAX_OUTPUT_TOKENS": ["0", "x"],
    "KV_CACHE_THRESHOLD": ["0", "1.5", "nan"],
    "HEALTH_PORT": ["-1", "65536", "x"],
    "REDIS_URL": ["localhost"],
    "LOG_LEVEL": ["loud"],
    "LOG_FORMAT": ["xml"],
    "LLM_TABLE": ["x", "[('m', 'h')]"],
    "REMOTE_MAX_CONCURRENCY": ["0", "x"],
    "REMOTE_CONNECT_TIMEOUT_S": ["0", "x"],
    "REMOTE_READ_TIMEOUT_S": ["0", "inf"],
    "REMOTE_PROBE_EVERY_S": ["0", "x"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_bad_value_is_one_error_that_names_its_setting(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({name: value})
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_model_is_served_under_its_repository_or_the_name_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()

    def served(**env: str) -> str:
        return read_settings(env).engine.served_name

    assert served(VLLM_HF_REPO_ID="org/model") == "org/model"
    assert served(VLLM_HF_REPO_ID=str(folder)) == "my-model"
    assert served(VLLM_HF_REPO_ID="org/model", SERVED_MODEL_NAME="alias") == "alias"


def test_remote_engine_serves_albert_s_table_unless_told_otherwise() -> None:
    def urls(**env: str) -> list[tuple[str, str, str | None]]:
        remote = read_settings({"ENGINE": "remote", **env}).remote
        assert remote is not None
        return [(entry.model, entry.url, entry.api_key) for entry in remote.table]

    assert urls() == [("AgentPublic/fabrique-reference-2", "http://127.0.0.1:8081", None)]
    assert urls(LLM_TABLE="[('m', 'http://h')]") == [("m", "http://h", None)]
    with pytest.raises(SettingsError, match="LLM_TABLE is empty"):
        urls(LLM_TABLE="")
    assert read_settings({}).remote is None


def test_one_key_is_for_all_servers_that_have_none_of_their_own() -> None:
    table = "[('m', 'http://h'), {'model': 'm', 'url': 'http://i', 'api_key': 'own'}]"
    env = {"ENGINE": "remote", "LLM_TABLE": table, "LLM_TABLE_API_KEY": "s3cr3t"}
    settings = read_settings(env)
    assert settings.remote is not None
    assert [entry.api_key for entry in settings.remote.table] == ["s3cr3t", "own"]
    assert "s3cr3t" not in repr(settings)


def test_two_workers_of_one_machine_have_names_of_their_own_if_they_are_told() -> None:
    assert read_settings({"WORKER_ID": "w1"}).service.worker_id == "w1"
    assert read_settings({}).service.worker_id


def test_password_is_in_no_text_of_the_settings() -> None:
    settings = read_settings({"REDIS_PASSWORD": "s3cr3t"})
    assert "s3cr3t" in settings.service.redis.url
    assert "s3cr3t" not in repr(settings)


class Recording(dict[str, str]):
    """An environment that notes what is read of it."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return super().__contains__(name)


def test_settings_that_vllm_would_take_for_its_own_variables_are_listed() -> None:
    env = Recording()
    read_settings(env)
    assert {name for name in env.read if name.startswith("VLLM_")} == set(NOT_VLLM_S)
