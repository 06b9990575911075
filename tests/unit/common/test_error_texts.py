"""Words of engines, libraries and servers, as clients may see them."""

from __future__ import annotations

import pytest

from relais_common.jobs.error_texts import MAX_LENGTH, cleaned


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ValueError: top_k is wrong", "top_k is wrong"),
        ("pydantic_core._pydantic_core.ValidationError: 1 error for x", "1 error for x"),
        ("it takes no <class 'list'>", "it takes no a value"),
        pytest.param("<vllm.Foo object at 0x7f00> failed", "a value failed", id="address"),
        ("no /usr/lib/python3/x.py here", "no a file here"),
        ('File "/opt/venv/x.py", line 3, in f: bad', "bad"),
        ("see vllm/v1/engine/core.py:33", "see a file:33"),
        ("model /models/secret is gone", "model a file is gone"),
        ("Traceback (most recent call last):\n  x", ""),
        ("one\ntwo\x00\x1b[31m three\u2028four", "one two [31m three four"),
        ("wrong key sk-abcdef123456", "wrong key a key"),
    ],
)
def test_names_of_classes_files_and_keys_are_left_out(text: str, shown: str) -> None:
    assert cleaned(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "POST /v1/chat/completions takes no such field",
        "#/properties/data/items: $ref leads nowhere",
        "the prompt has 5000 tokens; the maximum context length is 4096 tokens",
        "stop: `a/b` is no text",
    ],
)
def test_what_a_client_needs_stays(text: str) -> None:
    assert cleaned(text) == text


def test_length_is_bounded() -> None:
    assert len(cleaned("word " * 1_000_000)) <= MAX_LENGTH
    assert cleaned("x" * MAX_LENGTH) == "x" * MAX_LENGTH
