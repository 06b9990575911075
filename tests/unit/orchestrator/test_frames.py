"""Events to the frames of an OpenAI stream."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relais_common.jobs.events import Completed, Event, Started, Timings, Token, TokenLogprob, Usage
from relais_orchestrator.api.openai.formats import ChatFormat, CompletionFormat, Format, Identity
from relais_orchestrator.api.openai.frames import DONE, ChunkFrames

IDENTITY = Identity('or"g~2fm.abc', 'or"g/m', 1_700_000_000)
COMPLETED = Completed("length", Usage(7, 5, 3), Timings(queue_s=0, prefill_s=0, decode_s=0))
SHAPES = [ChatFormat(IDENTITY), CompletionFormat(IDENTITY)]


def parsed(data: bytes) -> list[Any]:
    """The JSON of each frame, `[DONE]` left out."""
    assert data.endswith(b"\n\n")
    frames = data.removesuffix(DONE).split(b"\n\n")[:-1]
    assert all(frame.startswith(b"data: ") for frame in frames)
    return [orjson.loads(frame.removeprefix(b"data: ")) for frame in frames]


@pytest.mark.parametrize("shape", SHAPES)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_each_token_has_a_frame_of_its_own_with_its_very_text(
    shape: Format, texts: list[str]
) -> None:
    data = ChunkFrames(shape, include_usage=False).of([Token(text, (1,)) for text in texts])
    assert parsed(data) == [shape.text(text) for text in texts]


def test_tokens_that_are_told_have_a_frame_even_without_text_and_offsets_that_go_on() -> None:
    told = [
        Token("", (1,), (TokenLogprob("ab", -1),)),
        Token("abc", (2,), (TokenLogprob("c", -2),)),
    ]
    frames = ChunkFrames(CompletionFormat(IDENTITY), include_usage=False)
    choices = [one["choices"][0] for one in parsed(frames.of(told[:1]) + frames.of(told[1:]))]
    assert [choice["text"] for choice in choices] == ["", "abc"]
    assert [choice["logprobs"]["text_offset"] for choice in choices] == [[0], [2]]


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_without_text_and_the_start_have_none(shape: Format) -> None:
    events: list[Event] = [Started(3), Token("", (1,))]
    assert ChunkFrames(shape, include_usage=False).of(events) == b""


@pytest.mark.parametrize("shape", SHAPES)
def test_the_usage_so_far_is_null_while_the_prompt_is_not_counted(shape: Format) -> None:
    frames = ChunkFrames(shape, include_usage=True, continuous_usage=True)
    assert [one["usage"] for one in parsed(frames.of([Token("a", ())]))] == [None]
    # A server that tells no ids sends one token at a time; text that is held back counts.
    (chunk,) = parsed(frames.of([Started(3), Token("", (1,)), Token("b", (2, 3))]))
    assert chunk["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    (alone,) = parsed(
        ChunkFrames(shape, include_usage=False, continuous_usage=True).of([Token("a", ())])
    )
    assert "usage" not in alone


@pytest.mark.parametrize("shape", SHAPES)
def test_end_gives_the_reason_the_usage_where_asked_for_and_done(shape: Format) -> None:
    events: list[Event] = [Token("a", (1,)), COMPLETED]
    frames = ChunkFrames(shape, include_usage=True)
    if head := frames.head():
        assert [chunk["usage"] for chunk in parsed(head)] == [None]
    data = frames.of(events)
    assert data.endswith(DONE)
    assert parsed(data) == [
        {**shape.text("a"), "usage": None},
        {**shape.finish(COMPLETED), "usage": None},
        orjson.loads(orjson.dumps(shape.usage(COMPLETED))),
    ]
    data = ChunkFrames(shape, include_usage=False).of(events)
    assert parsed(data) == [shape.text("a"), shape.finish(COMPLETED)]
