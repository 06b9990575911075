"""The embedding worker's settings: every bad value is one error that names its setting."""

from __future__ import annotations

import pytest

from relais_common.jobs.errors import SettingsError
from relais_embedding_worker.settings import read_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EMBEDDING_ENGINE", "onnx"),
        ("EMBEDDING_DTYPE", "int8"),
        ("EMBEDDING_DIMENSIONS", "128,many"),
        ("EMBEDDING_DIMENSIONS", "0"),
        ("EMBEDDING_MAX_BATCH_TOKENS", "0"),
        ("EMBEDDING_MAX_WAIT_MS", "-1"),
        ("EMBEDDING_MAX_REQUESTS", "0"),
        ("EMBEDDING_MAX_RESULT_BYTES", "1"),
        ("LEASE_S", "0"),
    ],
)
def test_bad_value_is_an_error_that_names_its_setting(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        read_settings({name: value})


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
    assert read_settings(env).encoder.served_name == name


def test_dimensions_are_a_list() -> None:
    assert read_settings({"EMBEDDING_DIMENSIONS": "64, 128"}).bounds.dimensions == (64, 128)
