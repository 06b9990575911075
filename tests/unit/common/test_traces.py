"""What a trace says of a request, and its document."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from relais_common.jobs.chat import ImagePart, ImageUrl, Message, TextPart
from relais_common.jobs.job import Operation, Priority, Status
from relais_common.jobs.traces import Phases, Trace, trace_document
from relais_common.queue import codec
from relais_common.queue.trace_codec import content_of
from relais_testing.builders import make_job

TRACE = Trace(
    channel_id="m.1",
    key_id="client1",
    model="m",
    model_revision="r1",
    operation=Operation.CHAT,
    priority=Priority.NORMAL,
    status=Status.COMPLETED,
    error_type=None,
    finish_reason="stop",
    takes=2,
    failures=0,
    input_tokens=10,
    output_tokens=5,
    cached_tokens=0,
    wasted_tokens=0,
    accepted_at_s=1000.0,
    first_token_at_s=1003.0,
    finished_at_s=1011.0,
    phases=Phases(queue_s=2.0, prefill_s=1.5, decode_s=4.0, stalled_s=3.5),
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_phases_sum_to_the_end_to_end_time() -> None:
    assert TRACE.e2e_s == 11.0


def test_the_first_token_counts_from_acceptance_and_the_others_share_the_rest() -> None:
    assert TRACE.ttft_s == 3.0
    assert TRACE.tpot_s == 2.0


def test_several_answers_share_no_time() -> None:
    several = replace(TRACE, output_tokens=20, answers=4)

    assert several.tpot_s == 2.0
    assert replace(several, longest_answer_tokens=17).tpot_s == 0.5
    assert replace(several, output_tokens=4).tpot_s is None


@pytest.mark.parametrize("first_token_at_s", [None, 1003.0])
def test_a_time_per_token_needs_two_tokens(first_token_at_s: float | None) -> None:
    one = replace(TRACE, output_tokens=1, first_token_at_s=first_token_at_s)

    assert one.tpot_s is None


def test_a_document_is_named_after_its_channel_and_leaves_out_what_is_not_known() -> None:
    document = trace_document(TRACE, recorded_at=NOW)

    assert document["_id"] == "m.1"
    assert document["recorded_at"] == NOW
    assert document["accepted_at"] == datetime.fromtimestamp(1000, UTC)
    assert document["e2e_s"] == 11.0
    assert not {"error_type", "cancel_reason", "content"} & document.keys()


def test_content_has_the_type_and_the_length_of_an_image_alone() -> None:
    image = ImagePart(ImageUrl("data:image/png;base64,c2VjcmV0"))
    job = make_job(messages=(Message("user", (TextPart("a"), image)),), prompt=None)
    content = content_of(codec.encode_job(job), "answer", {}, [])
    text, picture = content["messages"][0]["content"]
    assert text == {"type": "text", "text": "a"}
    assert picture["image_url"]["url"] == "data:image/png;base64,(8 characters)"
