"""The text of single tokens: what they add up to is the text."""

from __future__ import annotations

from collections.abc import Sequence

from relais_llm_worker.engines.token_texts import TokenTexts


def decode(token_ids: Sequence[int]) -> str:
    """A token for each byte."""
    return bytes(token_ids).decode(errors="replace")


def texts_of(data: bytes) -> list[str]:
    texts = TokenTexts(decode)
    found = []
    for token_id in data:
        found.append(texts.text(token_id))
        texts.advance((token_id,))
    return found


def test_the_token_that_ends_a_character_has_it_whole() -> None:
    assert texts_of("aé€😀b".encode()) == ["a", "", "é", "", "", "€", "", "", "", "😀", "b"]


def test_a_token_that_was_not_chosen_changes_nothing() -> None:
    texts = TokenTexts(decode)
    first, second = "é".encode()
    texts.advance((first,))
    assert texts.text(ord("x")) == "x"
    assert texts.text("€".encode()[0]) == ""
    assert texts.text(second) == "é"


def test_one_that_goes_on_from_the_last_tokens_says_the_same() -> None:
    data = "ab😀".encode()
    texts = TokenTexts(decode)
    texts.advance(data[1:-1][-4:])
    assert texts.text(data[-1]) == "😀"


def test_bytes_of_no_character_are_not_kept_for_ever() -> None:
    assert texts_of(b"\xf0\x9f\xf0\x9f\xf0\x9f\xf0\x9fab")[-1] == "b"
