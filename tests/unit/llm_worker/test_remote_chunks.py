"""What servers' streams say, read by what is known of them; what is not is left out and counted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import pytest

from relais_common.jobs.events import RankedToken, TokenLogprob
from relais_common.remote.errors import Lost, TooMuch
from relais_common.remote.server import MAX_COUNT
from relais_llm_worker.remote import sse
from relais_llm_worker.remote.bounds import Bounds
from relais_llm_worker.remote.chunks import (
    MAX_TOKEN_ID,
    ChunkReader,
    Counts,
    Delta,
)
from relais_llm_worker.remote.logprobs import UNTOLD
from relais_llm_worker.remote.sse import Event, read_events


class Reading:
    """One stream's chunks, and the fields of which something was left out."""

    def __init__(self, *, tokens: int = 100, candidates: int | None = None) -> None:
        self.ignored: list[str] = []
        self.reader = ChunkReader(Bounds(tokens, candidates, 10), self.ignored.append, self._fail)

    def _fail(self, chunk: Any) -> NoReturn:
        raise ValueError(chunk)

    def read(self, chunk: Any, name: bytes = b"") -> Delta | None:
        return self.reader.read(Event(name, json.dumps(chunk).encode()))

    def choice(self, **fields: Any) -> Delta:
        delta = self.read({"choices": [{"index": 0, **fields}]})
        assert delta is not None
        return delta


@pytest.fixture
def reading() -> Reading:
    return Reading()


@pytest.mark.parametrize("word", [None, "", "null", "NULL"])
def test_words_that_are_no_reason_do_not_end_an_answer(reading: Reading, word: str | None) -> None:
    assert reading.choice(delta={"content": "x"}, finish_reason=word) == Delta("x")
    assert reading.ignored == []


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("eos_token", "stop"),
        ("end_turn", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("content_filter", "content_filter"),
        ("tool_calls", "tool_calls"),
    ],
)
def test_reasons_have_openai_s_names(reading: Reading, word: str, reason: str) -> None:
    assert reading.choice(finish_reason=word).finish_reason == reason


@pytest.mark.parametrize("reason", ["whatever", 7, True, ["stop"], {"a": 1}, "x" * 10_000])
def test_unknown_reason_is_counted_and_not_shown(reading: Reading, reason: Any) -> None:
    assert reading.choice(finish_reason=reason).finish_reason is None
    assert reading.ignored == ["finish_reason"]


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_server_that_gave_up_is_lost(reading: Reading, reason: str) -> None:
    with pytest.raises(Lost):
        reading.choice(finish_reason=reason)


def test_parts_of_a_content_are_its_text(reading: Reading) -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]},
        {"type": "text", "text": "Hello"},
        {"type": "text", "text": " there"},
    ]
    assert reading.choice(delta={"content": parts}) == Delta("Hello there", reasoning="hmm")
    assert reading.ignored == []


@pytest.mark.parametrize(
    "content", [5, True, {"text": "x"}, [["x"]], [{"type": "text"}], ["x"], [7]]
)
def test_content_of_another_kind_is_never_shown(reading: Reading, content: Any) -> None:
    assert reading.choice(delta={"content": content}).text == ""
    assert reading.ignored == ["content"]


@pytest.mark.parametrize("chunk", [5, "x", [], [1], True])
def test_event_that_is_no_object_is_left_out(reading: Reading, chunk: Any) -> None:
    assert reading.read(chunk) is None
    assert reading.ignored == ["event"]


def test_empty_events_say_nothing(reading: Reading) -> None:
    assert reading.read(None) is None
    assert reading.reader.read(Event(b"", b"")) is None
    assert reading.read({"type": "ping"}, b"ping") is None
    assert reading.read({"choices": []}) is None
    assert reading.ignored == []


@pytest.mark.parametrize("choices", [5, {}, "x", [5], [None], [{"index": 1, "text": "other"}]])
def test_choices_that_nobody_asked_for_are_left_out(reading: Reading, choices: Any) -> None:
    assert reading.read({"choices": choices}) is None
    assert reading.ignored == ["choices"]


def test_first_of_several_choices_counts(reading: Reading) -> None:
    choices = [{"index": 1, "text": "b"}, {"index": 0, "text": "a"}, {"index": 0, "text": "c"}]
    assert reading.read({"choices": choices}) == Delta("a")
    assert reading.ignored == ["choices"]


@pytest.mark.parametrize("chunk", [{"error": "overloaded"}, {"error": {"message": "no"}}])
def test_error_within_a_stream_is_one(reading: Reading, chunk: Any) -> None:
    with pytest.raises(ValueError, match="error"):
        reading.read(chunk)


def test_event_named_error_is_one(reading: Reading) -> None:
    with pytest.raises(ValueError, match="not now"):
        reading.read({"message": "not now"}, b"error")


@pytest.mark.parametrize(
    "data", [b"{nonsense", b"[" * 5000, b'{"a":' * 5000, b"1e400", b'"\\ud800"', b"\xff"]
)
def test_what_is_no_json_is_the_stream_s_end(reading: Reading, data: bytes) -> None:
    with pytest.raises(Lost):
        reading.reader.read(Event(b"", data))


@pytest.mark.parametrize(
    "count", [1e30, 9e18, -1, -1.0, 1.5, True, "7", [7], {}, MAX_COUNT + 1, 1 << 62]
)
def test_counts_that_are_none_are_left_out(reading: Reading, count: Any) -> None:
    reading.read({"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": 4}})
    assert reading.reader.counts == Counts(None, 4)
    assert reading.ignored == ["usage"]


@pytest.mark.parametrize("usage", [5, [], "x", True])
def test_usage_that_is_none_is_left_out(reading: Reading, usage: Any) -> None:
    reading.read({"usage": usage})
    assert (reading.reader.counts, reading.ignored) == (Counts(), ["usage"])


def test_last_of_each_count_counts(reading: Reading) -> None:
    reading.read({"usage": {"prompt_tokens": 7.0, "completion_tokens": 1}})
    reading.read({"usage": {"prompt_tokens_details": {"cached_tokens": 2}}})
    reading.read({"usage": {"prompt_tokens": None, "completion_tokens": 3}})
    assert reading.reader.counts == Counts(7, 3, 2)
    assert reading.ignored == []


@pytest.mark.parametrize("ids", [[1.0], [True], ["1"], [-1], [MAX_TOKEN_ID + 1], [1e30], 5, {}])
def test_ids_that_are_none_are_left_out(reading: Reading, ids: Any) -> None:
    assert reading.choice(text="x", token_ids=ids).token_ids is None
    assert reading.ignored == ["token_ids"]


def test_ids_are_known_with_the_prompt_s(reading: Reading) -> None:
    delta = reading.choice(text="x", token_ids=[5, MAX_TOKEN_ID], prompt_token_ids=[1])
    assert (delta.token_ids, delta.prompt_token_ids) == ((5, MAX_TOKEN_ID), (1,))


def test_prompt_of_more_tokens_than_was_sent_is_left_out(reading: Reading) -> None:
    delta = reading.choice(text="x", prompt_token_ids=[1] * 100_000)
    assert (delta.prompt_token_ids, reading.ignored) == (None, ["token_ids"])


def test_logprobs_are_read_in_both_forms_where_they_were_asked_for() -> None:
    told = TokenLogprob("a", -0.5, (RankedToken("a", -0.5),))
    chat = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}] * 9}
    text = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}]}
    for logprobs in ({"content": [chat]}, text):
        assert Reading(candidates=1).choice(text="a", logprobs=logprobs).logprobs == (told,)
        assert Reading().choice(text="a", logprobs=logprobs).logprobs == ()


@pytest.mark.parametrize(
    "logprobs",
    [
        5,
        [1],
        {"content": 5},
        {"content": [5]},
        {"content": [{"token": 5, "logprob": -1}]},
        {"content": [{"token": "a", "logprob": "x"}]},
        {"content": [{"token": "a" * 1000, "logprob": -1}]},
        {"content": [{"token": "a", "logprob": True}]},
        {"content": [{"token": "a", "logprob": -1, "top_logprobs": 7}]},
        {"tokens": 5, "token_logprobs": 5},
        {"tokens": ["a"], "token_logprobs": []},
        {"tokens": ["a"], "token_logprobs": [-1], "top_logprobs": [[1]]},
    ],
)
def test_logprobs_of_another_shape_are_left_out(logprobs: Any) -> None:
    reading = Reading(candidates=2)
    assert reading.choice(text="x", logprobs=logprobs) == Delta("x")
    assert reading.ignored == ["logprobs"]


@pytest.mark.parametrize(("given", "read"), [(None, UNTOLD), (-1e308, UNTOLD), (5, 0.0)])
def test_logarithms_are_those_of_probabilities(given: Any, read: float) -> None:
    token = {"token": "a", "logprob": given}
    delta = Reading(candidates=0).choice(text="x", logprobs={"content": [token]})
    assert delta.logprobs[0].logprob == read


def test_answer_holds_no_more_than_its_tokens_may() -> None:
    reading = Reading(tokens=2)
    with pytest.raises(TooMuch):
        reading.choice(delta={"content": "x" * 5000})
    reading = Reading(tokens=2)
    with pytest.raises(TooMuch):
        for _ in range(1000):
            reading.choice(delta={"content": "x"})
    reading = Reading(tokens=2)
    reading.choice(text="x", token_ids=[1, 2])
    with pytest.raises(TooMuch):
        reading.choice(text="x", token_ids=[3])
    reading = Reading(tokens=2, candidates=5)
    with pytest.raises(TooMuch):
        for _ in range(100):
            reading.choice(logprobs={"content": [{"token": "a" * 500, "logprob": -1}]})


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def events(*parts: bytes, most_bytes: int = 1 << 30) -> list[Event]:
    return [event async for event in read_events(pieces(*parts), most_bytes)]


STREAM = b'\xef\xbb\xbf: hello\ndata: {"a":1}\n\nevent: ping\ndata:x\ndata: y\n\ndata:\n\nretry: 5\n\ndata: [DONE]\n\n'
READ = [(b"", b'{"a":1}'), (b"ping", b"x\ny"), (b"", b""), (b"", b"[DONE]")]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_lines_end_in_any_of_three_ways_wherever_they_are_cut(end: bytes, size: int) -> None:
    whole = STREAM.replace(b"\n", end)
    assert await events(*(whole[at : at + size] for at in range(0, len(whole), size))) == READ


async def test_last_blank_line_may_be_missing() -> None:
    assert await events(b"data: a\n\ndata: b") == [(b"", b"a"), (b"", b"b")]
    assert await events(b"data: b\n") == [(b"", b"b")]


async def test_event_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    for piece in (b"x" * 10, b"data: x\n"):
        with pytest.raises(Lost):
            await events(b"data: ", *[piece] * 200)


async def test_stream_is_no_longer_than_it_may_be() -> None:
    with pytest.raises(TooMuch):
        await events(*[b":\n"] * 100, most_bytes=199)
    assert await events(*[b":\n"] * 100, most_bytes=200) == []
