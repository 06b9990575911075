"""What is written can be read again; what cannot be read is a DecodeError, never another error."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relais_common.jobs.chat import (
    ChatOptions,
    FunctionCall,
    FunctionDelta,
    Message,
    ToolCall,
    ToolCallDelta,
)
from relais_common.jobs.errors import DecodeError, ErrorInfo
from relais_common.jobs.events import (
    Cancelled,
    Completed,
    Event,
    Expired,
    Failed,
    Queued,
    RankedToken,
    Started,
    Timings,
    Token,
    TokenLogprob,
    Usage,
    Vectors,
)
from relais_common.jobs.job import (
    Embedding,
    InputType,
    Job,
    OnDisconnect,
    Operation,
    Priority,
    Sampling,
    StopReason,
    WorkerState,
)
from relais_common.queue import codec
from relais_common.queue.ports import LiveBatch
from relais_testing.builders import make_job, token_line

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
COUNT = st.integers(0, 2**53)
SECONDS = st.floats(0, 1e9)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
USAGES = st.builds(Usage, COUNT, COUNT, COUNT, st.none() | COUNT)
MESSAGES = st.builds(
    Message,
    TEXT,
    st.none() | TEXT,
    name=st.none() | TEXT,
    reasoning=st.none() | TEXT,
    tool_calls=st.lists(
        st.builds(ToolCall, TEXT, st.builds(FunctionCall, TEXT, TEXT)), max_size=2
    ).map(tuple),
    tool_call_id=st.none() | TEXT,
)
DELTAS = st.builds(
    ToolCallDelta,
    COUNT,
    st.none() | TEXT,
    st.sampled_from((None, "function")),
    st.builds(FunctionDelta, st.none() | TEXT, st.none() | TEXT),
)
TIMINGS = st.builds(Timings, queue_s=SECONDS, prefill_s=SECONDS, decode_s=SECONDS)
ERRORS = st.builds(ErrorInfo, TEXT, TEXT, st.none() | TEXT, st.none() | TEXT, st.integers(400, 599))
LOGPROBS = st.builds(
    TokenLogprob,
    TEXT,
    FLOAT,
    st.lists(st.builds(RankedToken, TEXT, FLOAT), max_size=3).map(tuple),
)
VECTORS = st.builds(Vectors, COUNT, COUNT, COUNT)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Queued, COUNT, st.none() | SECONDS),
    st.builds(Started, COUNT),
    st.builds(
        Token,
        TEXT,
        st.lists(COUNT, max_size=5).map(tuple),
        st.none() | st.lists(LOGPROBS, max_size=3).map(tuple),
        TEXT,
        st.lists(DELTAS, max_size=2).map(tuple),
    ),
    st.builds(
        Completed,
        TEXT,
        USAGES,
        TIMINGS,
        st.none() | TEXT | COUNT,
        st.none() | VECTORS,
        st.none() | MESSAGES,
    ),
    st.builds(Failed, ERRORS),
    st.builds(Cancelled, st.sampled_from(StopReason)),
    st.builds(Expired),
)
JSON = st.recursive(
    st.none() | st.booleans() | COUNT | FLOAT | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.none() | COUNT,
    temperature=st.none() | FLOAT,
    top_k=st.none() | st.integers(-1, 100),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    stop=st.lists(TEXT, max_size=3).map(tuple),
    ignore_eos=st.booleans(),
    logit_bias=st.none() | st.dictionaries(TEXT, FLOAT, max_size=3),
    stop_token_ids=st.lists(COUNT, max_size=3).map(tuple),
    include_stop_str_in_output=st.booleans(),
    skip_special_tokens=st.booleans(),
    bad_words=st.lists(TEXT, max_size=3).map(tuple),
    allowed_token_ids=st.lists(COUNT, max_size=3).map(tuple),
    structured_outputs=st.none() | st.dictionaries(TEXT, JSON, max_size=3),
    logprobs=st.none() | st.integers(0, 20),
    response_format=st.none() | st.dictionaries(TEXT, JSON, max_size=3),
)
PROMPTS = TEXT | st.lists(COUNT, max_size=5).map(tuple)
EMBEDDINGS = st.builds(
    Embedding,
    inputs=st.lists(PROMPTS, max_size=3).map(tuple),
    queries=st.lists(TEXT, max_size=3).map(tuple),
    input_type=st.none() | st.sampled_from(InputType),
    dimensions=st.none() | COUNT,
)
OPTIONS = st.builds(
    ChatOptions,
    st.lists(st.dictionaries(TEXT, JSON, max_size=2), max_size=2).map(tuple),
    TEXT | st.dictionaries(TEXT, JSON, max_size=2),
    st.booleans(),
    st.none() | TEXT,
)
JOBS = st.builds(
    Job,
    channel_id=TEXT,
    model=TEXT,
    key_id=TEXT,
    operation=st.sampled_from(Operation),
    messages=st.none() | st.lists(MESSAGES, max_size=3).map(tuple),
    prompt=st.none() | PROMPTS,
    embedding=st.none() | EMBEDDINGS,
    chat=OPTIONS,
    sampling=SAMPLINGS,
    priority=st.sampled_from(Priority),
    on_disconnect=st.sampled_from(OnDisconnect),
    deadline_s=SECONDS,
    log_ttl_s=SECONDS,
    result_ttl_s=SECONDS,
)
WORKERS = st.builds(
    WorkerState,
    TEXT,
    TEXT,
    COUNT,
    COUNT,
    st.booleans(),
    st.none() | COUNT,
    st.none() | st.floats(0, 1),
)


@given(EVENTS)
@example(Token("", ()))
@example(Token("a\nb\r\u2028 c", (0,)))
def test_event_is_one_line_and_survives(event: Event) -> None:
    line = codec.encode_event(event)
    assert b"\n" not in line
    assert b"\r" not in line
    assert codec.decode_event(line) == event


@given(st.builds(Token, st.text(), st.lists(st.integers(0, 2**32)).map(tuple)))
def test_token_is_spelt_as_every_event_is(token: Token) -> None:
    plain = {"text": token.text, "token_ids": token.token_ids}
    assert codec.encode_event(token) == b"token " + orjson.dumps(plain)


def test_plain_answers_are_spelt_without_what_only_chats_with_tools_or_reasoning_have() -> None:
    completed = Completed("stop", Usage(1, 2), Timings(queue_s=1.0, prefill_s=2.0, decode_s=3.0))
    assert orjson.loads(codec.encode_event(completed).partition(b" ")[2]) == {
        "finish_reason": "stop",
        "usage": {"input_tokens": 1, "output_tokens": 2, "cached_tokens": 0},
        "timings": {"queue_s": 1.0, "prefill_s": 2.0, "decode_s": 3.0},
        "stop_reason": None,
        "vectors": None,
    }


def test_only_tokens_whose_probabilities_were_asked_for_say_anything_of_them() -> None:
    told = Token("", (1, 2), (TokenLogprob("a", -0.5, (RankedToken("b", -1.5),)),))
    assert orjson.loads(codec.encode_event(told).partition(b" ")[2])["logprobs"] == [
        {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -1.5}]}
    ]


@given(EVENTS)
def test_terminal_events_are_known_by_name(event: Event) -> None:
    name, data = codec.split_event(codec.encode_event(event))
    assert (name in codec.TERMINAL_NAMES) == (
        isinstance(event, Completed | Failed | Cancelled | Expired)
    )
    assert isinstance(orjson.loads(data), dict)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Queued(3, None), b'queued {"queue_position":3,"estimated_wait_s":null}'),
        (Started(7), b'started {"input_tokens":7}'),
        (Token("\u00e9", (1, 2)), 'token {"text":"é","token_ids":[1,2]}'.encode()),
        (
            Completed("stop", Usage(1, 2), Timings(queue_s=0.5, prefill_s=1.0, decode_s=2.0)),
            (
                b'completed {"finish_reason":"stop","usage":{"input_tokens":1,"output_tokens":2,'
                b'"cached_tokens":0},"timings":{"queue_s":0.5,"prefill_s":1.0,"decode_s":2.0},'
                b'"stop_reason":null,"vectors":null}'
            ),
        ),
        (
            Completed(
                "stop",
                Usage(9, 0),
                Timings(queue_s=0.5, prefill_s=1.0, decode_s=0.0),
                vectors=Vectors(2, 384, 1),
            ),
            (
                b'completed {"finish_reason":"stop","usage":{"input_tokens":9,"output_tokens":0,'
                b'"cached_tokens":0},"timings":{"queue_s":0.5,"prefill_s":1.0,"decode_s":0.0},'
                b'"stop_reason":null,"vectors":{"count":2,"dimensions":384,"truncated":1}}'
            ),
        ),
        (
            Failed(ErrorInfo("m", "server_error", None, "engine_error", 500)),
            (
                b'failed {"error":{"message":"m","type":"server_error","param":null,'
                b'"code":"engine_error","status":500}}'
            ),
        ),
        (Cancelled(StopReason.CLIENT), b'cancelled {"reason":"client"}'),
        (Expired(), b'expired {"reason":"deadline"}'),
    ],
)
def test_event_is_spelt_like_this(event: Event, line: bytes) -> None:
    assert codec.encode_event(event) == line


def test_lines_the_scripts_append_are_the_events_they_stand_for() -> None:
    assert codec.decode_event(codec.EXPIRED_LINE) == Expired()
    assert codec.decode_event(codec.DISCONNECTED_LINE) == Cancelled(StopReason.DISCONNECT)
    assert codec.decode_event(codec.CANCELLED_LINE) == Cancelled(StopReason.CLIENT)


@given(JOBS)
def test_job_survives(job: Job) -> None:
    assert codec.decode_job(codec.encode_job(job)) == job


@given(WORKERS)
def test_worker_state_survives(state: WorkerState) -> None:
    assert codec.decode_worker(codec.encode_worker(state)) == state


def test_what_a_newer_worker_adds_is_left_out() -> None:
    state = WorkerState("w1", "m", capacity=8, running=3)
    fields = orjson.loads(codec.encode_worker(state)) | {"of_tomorrow": 1}
    assert codec.decode_worker(orjson.dumps(fields)) == state


@given(st.integers(1, 10**9), st.lists(EVENTS, min_size=1, max_size=5))
def test_live_batch_survives(first_seq: int, events: list[Event]) -> None:
    lines = [codec.encode_event(event) for event in events]
    message = b"\n".join((b"%d" % first_seq, *lines))
    assert codec.decode_live(message) == LiveBatch(first_seq, lines)


def test_token_ids_are_a_json_array() -> None:
    assert codec.encode_prompts([(1, 2, 3)]) == b"[1,2,3]"


DECODERS: list[Callable[[bytes], object]] = [
    codec.decode_event,
    codec.decode_job,
    codec.decode_live,
    codec.decode_worker,
]
NAMES = [b"queued", b"started", b"token", b"completed", b"failed", b"cancelled", b"expired"]


@pytest.mark.parametrize("decode", DECODERS)
@given(garbage=st.binary(max_size=60))
@example(garbage=b"")
@example(garbage=b"token")
@example(garbage=b"9" * 5000 + b"\ntoken {}")
def test_garbage_is_a_decode_error(decode: Callable[[bytes], object], garbage: bytes) -> None:
    try:
        decode(garbage)
    except DecodeError:
        return
    assert decode is codec.decode_live  # any number and any line are a batch


@given(name=st.sampled_from([*NAMES, b"other"]), value=JSON)
def test_event_of_any_json_is_an_event_or_a_decode_error(name: bytes, value: object) -> None:
    try:
        codec.decode_event(name + b" " + orjson.dumps(value))
    except DecodeError:
        pass


@given(value=JSON)
def test_any_json_is_no_job_and_no_worker(value: object) -> None:
    for decode in (codec.decode_job, codec.decode_worker):
        with pytest.raises(DecodeError):
            decode(orjson.dumps(value))


@given(data=st.data(), name=st.sampled_from(sorted(orjson.loads(codec.encode_job(make_job())))))
def test_job_with_one_field_spoilt_is_a_job_or_a_decode_error(
    data: st.DataObject, name: str
) -> None:
    fields = orjson.loads(codec.encode_job(make_job()))
    fields[name] = data.draw(JSON)
    try:
        codec.decode_job(orjson.dumps(fields))
    except DecodeError:
        pass


@pytest.mark.parametrize("line", [b"", b"token", token_line()[:-1], b" {}", b"token []"])
def test_event_cut_short_is_a_decode_error(line: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode_event(line)
