"""Frames with ids: the same from wherever a client goes on, because they depend on the log alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relais_common.jobs.chat import FunctionDelta, Message, ToolCallDelta, joined
from relais_common.jobs.errors import ErrorInfo, LogRewound
from relais_common.jobs.events import (
    Completed,
    Event,
    Failed,
    Queued,
    Restarted,
    Started,
    Timings,
    Token,
    Usage,
)
from relais_common.queue.codec import encode_event
from relais_common.queue.ports import LiveBatch
from relais_orchestrator.api.answering import Frames
from relais_orchestrator.api.channel_streams import NumberedFrames, Position
from relais_orchestrator.api.messages.frames import MessageFrames
from relais_orchestrator.api.openai.formats import ChatFormat, CompletionFormat, Identity
from relais_orchestrator.api.openai.frames import ChunkFrames
from relais_orchestrator.api.responses.events import ResponseFrames
from relais_orchestrator.api.responses.showing import Shown
from relais_orchestrator.streams import sse
from relais_orchestrator.submission.responses import Head

CHANNEL = "m.abcdefghijklmnopqrstuv"
PARTS = (
    ToolCallDelta(0, "call_1", "function", FunctionDelta("weather", '{"city"')),
    ToolCallDelta(0, function=FunctionDelta(None, ':"Lyon"}')),
)
LOG: list[Event] = [
    Queued(1, None),
    Started(7),
    Token("", (1,), reasoning="H"),
    Token("", (2,), reasoning="m."),
    Token("", (3,)),
    Token("I look.", (4,)),
    Token("", (5,), tool_calls=PARTS[:1]),
    Token("", (6,), tool_calls=PARTS[1:]),
    Completed(
        "tool_calls",
        Usage(7, 6),
        Timings(queue_s=0, prefill_s=0, decode_s=0),
        message=Message("assistant", "I look.", reasoning="Hm.", tool_calls=joined(PARTS)),
    ),
]
LINES = [encode_event(event) for event in LOG]
IDENTITY = Identity(CHANNEL, "m", 1_700_000_000)


def response(*, is_background: bool) -> ResponseFrames:
    head = Head(1_700_000_000, (), {"background": is_background})
    return ResponseFrames(Shown(CHANNEL, head, stored=True))


def dialect(name: str) -> Frames:
    if name == "anthropic":
        return MessageFrames(CHANNEL)
    if name in ("responses", "background"):
        return response(is_background=name == "background")
    shape = CompletionFormat(IDENTITY) if name == "text" else ChatFormat(IDENTITY)
    return ChunkFrames(shape, include_usage=name == "usage", continuous_usage=name == "usage")


DIALECTS = ["anthropic", "openai", "usage", "text", "responses", "background"]


def frames(name: str, after: Position, batches: list[int]) -> list[bytes]:
    """The frames that a server sends, to which the log comes in batches of these sizes."""
    rendering = NumberedFrames(dialect(name), after)
    assert rendering.after == 0
    data, place = b"", 0
    for size in (*batches, len(LINES)):
        data += rendering.batch(LiveBatch(place + 1, LINES[place : place + size]))
        place += size
    return data.split(b"\n\n")[:-1]


def ids(found: list[bytes]) -> list[str]:
    return [one.partition(b"\n")[0].removeprefix(b"id: ").decode() for one in found]


@pytest.mark.parametrize("name", DIALECTS)
@given(batches=st.lists(st.integers(1, 4), max_size=6))
def test_a_client_goes_on_after_any_frame(name: str, batches: list[int]) -> None:
    whole = frames(name, Position(), [])
    assert len(set(ids(whole))) == len(whole)
    for place, last in enumerate(ids(whole), 1):
        seq, _, part = last.partition(".")
        position = Position(int(seq), int(part) if part else None)
        assert frames(name, position, batches) == whole[place:]


@pytest.mark.parametrize("name", DIALECTS)
def test_the_last_frame_of_an_event_has_its_number(name: str) -> None:
    found = ids(frames(name, Position(), []))
    begins_at_once = name in ("responses", "background")
    assert (found[0], found[-1]) == ("1.1" if begins_at_once else "1", str(len(LOG)))
    assert [one for one in found if "." not in one] == sorted(
        {one.partition(".")[0] for one in found}, key=int
    )


@pytest.mark.parametrize("name", DIALECTS)
def test_frames_of_a_dialect_are_those_of_a_plain_stream(name: str) -> None:
    shape = dialect(name)
    plain = shape.head() + shape.of(LOG[1:])
    numbered = frames(name, Position(), [])
    without = b"".join(one.partition(b"\n")[2] + b"\n\n" for one in numbered[1:])
    assert without == plain
    assert numbered[0].partition(b"\n")[2].startswith(b"event: queued\n")


def test_a_failure_has_an_id_and_a_restart_has_no_frames() -> None:
    lines = [encode_event(Failed(ErrorInfo("no", code="engine_error")))]
    data = NumberedFrames(dialect("openai"), Position()).batch(LiveBatch(2, lines))
    assert data.startswith(b'id: 2\ndata: {"error":')
    waiting = [LINES[0], *lines]
    data = NumberedFrames(dialect("background"), Position()).batch(LiveBatch(1, waiting))
    assert [line for line in data.split(b"\n") if line.startswith((b"id:", b"event:"))] == [
        *(b"id: 1.1", b"event: queued", b"id: 1.2", b"event: response.created"),
        *(b"id: 1", b"event: response.queued", b"id: 2", b"event: response.failed"),
    ]
    again = [encode_event(Restarted("worker lost"))]
    with pytest.raises(LogRewound):
        NumberedFrames(dialect("openai"), Position()).batch(LiveBatch(2, again))


def test_a_silence_is_no_empty_event() -> None:
    assert NumberedFrames(dialect("openai"), Position()).keepalive == sse.KEEPALIVE_LINE


def test_a_ping_has_no_id_so_that_a_client_keeps_its_own() -> None:
    stream = NumberedFrames(dialect("anthropic"), Position())
    stream.batch(LiveBatch(1, LINES))
    assert stream.keepalive.startswith(b"event: ping\ndata: ")
