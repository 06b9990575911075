"""The text of an answer: stop strings, what is held back for them, and an answer that was cut anywhere."""

from __future__ import annotations

import codecs
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relais_llm_worker.answer_text import AnswerText
from relais_llm_worker.engine import Emitted

# Few letters, so that stop strings occur, overlap and nearly occur; one is two bytes long.
PIECES = [b"a", b"b", b"ab", b"", b"\xc3", b"\xa9", b"c a"]
TOKENS = st.lists(st.integers(0, len(PIECES) - 1), max_size=24)
STOPS = st.lists(st.text("abcé ", min_size=1, max_size=5), max_size=3)


def decoder() -> Callable[[int], str]:
    """Bytes to text as they become whole characters; each answer has its own."""
    incremental = codecs.getincrementaldecoder("utf-8")("ignore")
    return lambda token_id: incremental.decode(PIECES[token_id])


def oracle(tokens: list[int], stops: list[str], min_tokens: int) -> tuple[str, str | None, int]:
    """Text, stop string, and tokens used, from the whole text after each token: slow and plain."""
    decode, text = decoder(), ""
    for used, token in enumerate(tokens, 1):
        before, text = len(text), text + decode(token)
        if used <= min_tokens:
            continue
        ends = []
        for stop in stops:
            at = text.find(stop, max(0, before + 1 - len(stop)))
            if at >= 0 and len(text) > before:
                ends.append((at + len(stop), at, stop))
        if ends:
            _, at, stop = min(ends, key=lambda end: end[0])
            return text[:at], stop, used
    return text, None, len(tokens)


def run(text: AnswerText, tokens: list[int]) -> tuple[list[str], str | None]:
    """The pieces that go out after each token, and the stop string that ended it."""
    pieces = []
    for token in tokens:
        matched = text.feed(token)
        pieces.append(text.give(ended=matched is not None))
        if matched is not None:
            return pieces, matched
    return [*pieces, text.give(ended=True)], None


@given(tokens=TOKENS, stops=STOPS, min_tokens=st.integers(0, 6))
def test_text_is_what_stands_before_the_stop_string_that_is_complete_first(
    tokens: list[int], stops: list[str], min_tokens: int
) -> None:
    whole, stop, used = oracle(tokens, stops, min_tokens)
    pieces, matched = run(AnswerText(decoder(), stops, min_tokens), tokens)
    assert "".join(pieces) == whole
    assert matched == stop
    assert len(pieces) == (used if stop else used + 1)


@given(tokens=TOKENS, stops=STOPS, cut=st.integers(0, 24))
def test_an_answer_cut_after_any_token_goes_on_as_if_it_had_not_been(
    tokens: list[int], stops: list[str], cut: int
) -> None:
    undisturbed, stop = run(AnswerText(decoder(), stops), tokens)
    cut = min(cut, len(undisturbed) - 1)
    published = "".join(undisturbed[:cut])
    heir = AnswerText(decoder(), stops)
    assert heir.replay(Emitted(tuple(tokens[:cut]), published))
    rest, matched = run(heir, tokens[cut:])
    assert published + "".join(rest) == "".join(undisturbed)
    assert matched == stop


@pytest.mark.parametrize("published", ["x", "abx", "abab"])
def test_tokens_that_give_another_text_here_are_told(published: str) -> None:
    assert not AnswerText(decoder(), ()).replay(Emitted((2,), published))


def test_nothing_is_held_back_that_cannot_become_a_stop_string() -> None:
    text = AnswerText(decoder(), ["abc", "b c"])
    given_out = []
    for token in (0, 0, 1, 0, 1, 1):
        text.feed(token)
        given_out.append(text.give(ended=False))
    assert given_out == ["", "a", "", "ab", "", "ab"]
