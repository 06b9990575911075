"""The embedding worker's settings: every bad value is one error that names its setting."""

from __future__ import annotations

import pytest

from relais_common.jobs.errors import SettingsError
from relais_common.jobs.job import InputType
from relais_embedding_worker.settings import read_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EMBEDDING_ENGINE", "onnx"),
        ("EMBEDDING_BACKEND", "tensorrt"),
        ("EMBEDDING_DTYPE", "int8"),
        ("EMBEDDING_DIMENSIONS", "128,many"),
        ("EMBEDDING_DIMENSIONS", "0"),
        ("EMBEDDING_MAX_BATCH_TOKENS", "0"),
        ("EMBEDDING_MAX_WAIT_MS", "-1"),
        ("EMBEDDING_MAX_REQUESTS", "0"),
        ("EMBEDDING_MAX_MODEL_BYTES", "0"),
        ("EMBEDDING_MAX_RESULT_BYTES", "1"),
        ("EMBEDDING_TABLE", "[('m', 'h')]"),
        ("RERANK_TABLE", "x"),
        ("REMOTE_BATCH_SIZE", "0"),
        ("REMOTE_MAX_CONCURRENCY", "0"),
        ("LEASE_S", "0"),
    ],
)
def test_bad_value_is_an_error_that_names_its_setting(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        read_settings({name: value})


@pytest.mark.parametrize(
    ("backend", "setting", "value"),
    [
        ("onnx", "EMBEDDING_DTYPE", "bfloat16"),
        ("openvino", "EMBEDDING_DTYPE", "float16"),
        ("auto", "EMBEDDING_DTYPE", "int8"),
        ("openvino", "EMBEDDING_DEVICE", "cuda"),
        ("onnx", "EMBEDDING_DEVICE", "cuda:1"),
    ],
)
def test_what_a_backend_does_not_do_is_refused(backend: str, setting: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{setting}.*EMBEDDING_BACKEND={backend}"):
        read_settings({"EMBEDDING_BACKEND": backend, setting: value})


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({}, "all-MiniLM-L6-v2"),
        ({"EMBEDDING_MODEL": "org/model"}, "org/model"),
        ({"EMBEDDING_MODEL": "."}, ""),
        ({"EMBEDDING_MODEL": "org/model", "EMBEDDING_SERVED_NAME": "ours"}, "ours"),
    ],
)
def test_model_is_served_by_its_own_name_unless_it_is_given_one(
    env: dict[str, str], name: str
) -> None:
    assert read_settings(env).encoders[0].served_name == name


def test_several_models_have_a_name_each() -> None:
    several = {"EMBEDDING_MODEL": "org/a, org/b"}
    encoders = read_settings(several).encoders
    assert [(one.model, one.served_name) for one in encoders] == [
        ("org/a", "org/a"),
        ("org/b", "org/b"),
    ]
    named = read_settings({**several, "EMBEDDING_SERVED_NAME": "a,b"}).encoders
    assert [one.served_name for one in named] == ["a", "b"]
    for names in ("a", "a,b,c", "a,a"):
        with pytest.raises(SettingsError, match="EMBEDDING_SERVED_NAME"):
            read_settings({**several, "EMBEDDING_SERVED_NAME": names})


def test_remote_models_are_those_of_all_tables() -> None:
    one = {"model": "v", "url": "http://a", "query_prompt": "q: "}
    vectors = repr([one, {**one, "url": "http://b", "api_key": "k"}])
    env = {
        "EMBEDDING_ENGINE": "remote",
        "EMBEDDING_TABLE": vectors,
        "EMBEDDING_TABLE_API_KEY": "all",
        "RERANK_TABLE": "('r', 'http://a')",
        "CLASSIFY_TABLE": "('c', 'http://a')",
    }
    remote = read_settings(env).remote
    assert remote is not None
    assert [(one.model, one.url, one.api_key) for one in remote.servers.table] == [
        ("v", "http://a", "all"),
        ("v", "http://b", "k"),
        ("r", "http://a", "all"),
        ("c", "http://a", "all"),
    ]
    assert remote.kinds == {"v": "embeddings", "r": "rerank", "c": "classify"}
    assert remote.prompts == {"v": {InputType.QUERY: "q: ", InputType.PASSAGE: ""}}


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "EMBEDDING_TABLE, RERANK_TABLE, CLASSIFY_TABLE are empty"),
        (
            {"EMBEDDING_TABLE": "('m', 'http://a')", "RERANK_TABLE": "('m', 'http://a')"},
            "RERANK_TABLE has 'm'",
        ),
        (
            {
                "EMBEDDING_TABLE": "[('m', 'http://a'),"
                "{'model': 'm', 'url': 'http://b', 'query_prompt': 'q'}]"
            },
            "EMBEDDING_TABLE gives 'm' different prompts",
        ),
    ],
)
def test_tables_that_make_no_sense_are_refused(env: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        read_settings({"EMBEDDING_ENGINE": "remote", **env})


def test_dimensions_are_a_list() -> None:
    assert read_settings({"EMBEDDING_DIMENSIONS": "64, 128"}).bounds.dimensions == (64, 128)
