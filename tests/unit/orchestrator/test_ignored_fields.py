"""The header that names what was ignored, whatever a client calls it."""

from __future__ import annotations

import pytest

from relais_orchestrator.http.ignored_fields import MAX_NAME_LENGTH, MAX_NAMES, shown


def test_names_are_encoded() -> None:
    assert shown(["messages.weight", "nope"]) == ("messages.weight", "nope")
    assert shown(["a\r\nSet-Cookie: x, é\ud800"]) == ("a%0D%0ASet-Cookie%3A%20x%2C%20%C3%A9%3F",)


@pytest.mark.parametrize("letter", ["x", "é", "日", "😀"])
def test_names_are_bounded_as_the_header_has_them(letter: str) -> None:
    many = shown(f"{number}{letter * 10_000}" for number in range(MAX_NAMES + 5))
    assert len(many) == MAX_NAMES + 1
    assert many[-1] == "..."
    for name in many[:-1]:
        assert MAX_NAME_LENGTH - 3 < len(name) <= MAX_NAME_LENGTH
        assert "%" not in name[-2:]
