"""The header that names what was ignored, whatever a client calls it."""

from __future__ import annotations

from relais_orchestrator.http.ignored_fields import MAX_NAMES, header_value


def test_names_are_encoded_and_bounded() -> None:
    assert header_value(["messages.weight", "nope"]) == "messages.weight, nope"
    assert (
        header_value(["a\r\nSet-Cookie: x, é\ud800"]) == "a%0D%0ASet-Cookie%3A%20x%2C%20%C3%A9%3F"
    )
    many = header_value(["x" * 10_000] * (MAX_NAMES + 1))
    assert len(many) < 2_000
    assert many.endswith(", ...")
