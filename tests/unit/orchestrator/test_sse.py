"""Encoded events as SSE frames."""

from __future__ import annotations

import pytest

from relais_common.jobs.errors import DecodeError
from relais_common.jobs.events import Token
from relais_common.queue import codec
from relais_common.queue.ports import LiveBatch
from relais_orchestrator.streams import sse
from relais_testing.builders import token_line


def test_frame_has_id_name_and_data_and_ends_with_an_empty_line() -> None:
    assert sse.frame(7, b"token", b'{"text":"a"}') == b'id: 7\nevent: token\ndata: {"text":"a"}\n\n'


def test_batch_becomes_numbered_frames() -> None:
    batch = LiveBatch(5, [token_line("a", 1), b'completed {"x":1}'])
    assert sse.frames(batch) == (
        b'id: 5\nevent: token\ndata: {"text":"a","token_ids":[1]}\n\n'
        b'id: 6\nevent: completed\ndata: {"x":1}\n\n'
    )


@pytest.mark.parametrize("text", ["\n", "\r\n\r\n", "data: x\n\nid: 9", "é\u2028\u2029", "\x00"])
def test_text_cannot_break_out_of_its_frame(text: str) -> None:
    frames = sse.frames(LiveBatch(1, [codec.encode_event(Token(text, (1,)))]))
    assert frames.count(b"\n") == 4
    assert b"\r" not in frames
    assert frames.endswith(b"\n\n")


def test_data_frame_is_data_alone() -> None:
    assert sse.data_frame(b"[DONE]") == b"data: [DONE]\n\n"


def test_keepalive_is_a_comment() -> None:
    assert sse.KEEPALIVE.startswith(b":")
    assert sse.KEEPALIVE.endswith(b"\n\n")


def test_line_that_is_no_event_is_refused() -> None:
    with pytest.raises(DecodeError):
        sse.frames(LiveBatch(1, [b"nonsense"]))
