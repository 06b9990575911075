"""Finds responses by their ids: in Redis while their results are kept there, else in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

import orjson
from msgspec.structs import replace

from relais_common.jobs.channels import channel_tag
from relais_common.jobs.chat import Message
from relais_common.jobs.errors import (
    InvalidRequest,
    LogRewound,
    PayloadTooLarge,
    ResponseNotFound,
    StoreUnavailable,
)
from relais_common.jobs.events import Completed, Terminal
from relais_common.jobs.job import ChannelState, Status
from relais_common.jobs.records import ApiRecord, StoredAnswer
from relais_common.queue.codec import decode_event
from relais_common.queue.ports import LiveBatch
from relais_orchestrator.api.answering import QUEUED, no_answer
from relais_orchestrator.api.responses.events import ResponseFrames
from relais_orchestrator.api.responses.objects import ResponseObject
from relais_orchestrator.api.responses.schemas import MAX_SEQUENCE
from relais_orchestrator.api.responses.showing import PREFIX, Shown
from relais_orchestrator.api.schemas.messages import MAX_MESSAGES
from relais_orchestrator.app_keys import Parts
from relais_orchestrator.submission.responses import Head, messages_of


@dataclass(frozen=True, slots=True)
class FoundResponse:
    """A response, and what has become of it.

    Attributes:
        state: of its channel, while Redis has it.
        text, outcome: its end, if it has ended.
    """

    shown: Shown
    record: ApiRecord
    state: ChannelState | None
    text: str
    outcome: Terminal | None

    @property
    def channel_id(self) -> str:
        return self.shown.channel_id

    @property
    def body(self) -> ResponseObject:
        """The response as it stands."""
        if self.outcome is not None:
            return self.shown.ended(self.outcome, self.text)
        running = self.state is not None and self.state.status is Status.RUNNING
        return self.shown.body("in_progress" if running else "queued")


def channel_of(response_id: str) -> str:
    """Return the channel of a response. Raises ResponseNotFound if there can be none."""
    channel_id = response_id.removeprefix(PREFIX)
    try:
        if channel_id == response_id:
            raise ValueError
        channel_tag(channel_id)
    except ValueError:
        raise not_found() from None
    return channel_id


def not_found() -> ResponseNotFound:
    return ResponseNotFound("there is no such response", param="response_id")


async def find(parts: Parts, channel_id: str, *, key_id: str) -> FoundResponse | None:
    """Return the response on this channel; None if there is none of this key. Raises ResponsesUnavailable."""
    found = await _in_redis(parts, channel_id, key_id)
    if found is not None or parts.responses is None:
        return found
    stored = await parts.responses.find(channel_id, key_id=key_id)
    return None if stored is None else _of_store(stored)


async def _in_redis(parts: Parts, channel_id: str, key_id: str) -> FoundResponse | None:
    state, record = await asyncio.gather(
        parts.queue.state(channel_id), parts.queue.record(channel_id)
    )
    if state is None or record is None or state.key_id != key_id:
        return None
    return FoundResponse(
        Shown(channel_id, Head.read(record), stored=record.stored),
        record,
        state,
        state.text or "",
        _ended(state.outcome),
    )


def _of_store(stored: StoredAnswer) -> FoundResponse:
    shown = Shown(stored.channel_id, Head.read(stored.record), stored=True)
    return FoundResponse(shown, stored.record, None, stored.text, _ended(stored.outcome))


def _ended(line: bytes | None) -> Terminal | None:
    # A channel's outcome is a terminal event.
    return None if line is None else decode_event(line)  # type: ignore[return-value]


async def history(
    parts: Parts, previous_id: str, *, key_id: str
) -> tuple[list[Message], tuple[str, ...]]:
    """Return the conversation up to the end of a response, and the channels of it and those before it.

    Raises:
        InvalidRequest: it is not there, or not with all before it, or it is not complete, or the chain is too long.
        PayloadTooLarge: the chain is too large.
        ResponsesUnavailable: the database does not answer.
    """
    try:
        last = await find(parts, channel_of(previous_id), key_id=key_id)
    except ResponseNotFound:
        last = None
    if last is None:
        raise _no_previous(f"there is no response {previous_id[:200]!r}")
    chain = (*last.shown.head.chain, last.channel_id)
    settings = parts.settings.responses
    if len(chain) > settings.max_chain:
        raise InvalidRequest(
            f"previous_response_id: more than {settings.max_chain} responses in a row; send the conversation as input",
            param="previous_response_id",
            code="chain_too_long",
        )
    before = await _find_all(parts, chain[:-1], key_id)
    messages: list[Message] = []
    size = 0
    for one in (*before, last):
        size += len(one.record.input) + len(one.text.encode())
        if size > settings.max_chain_bytes:
            raise PayloadTooLarge(
                f"previous_response_id: more than {settings.max_chain_bytes} bytes of conversation",
                param="previous_response_id",
            )
        messages += _turn(one)
        # Each may take some milliseconds.
        await asyncio.sleep(0)
    if len(messages) >= MAX_MESSAGES:
        raise InvalidRequest(
            f"previous_response_id: more than {MAX_MESSAGES} messages",
            param="previous_response_id",
            code="chain_too_long",
        )
    return messages, chain


async def _find_all(parts: Parts, channel_ids: Sequence[str], key_id: str) -> list[FoundResponse]:
    recent = await asyncio.gather(*(_in_redis(parts, one, key_id) for one in channel_ids))
    found = {one.channel_id: one for one in recent if one is not None}
    missing = [one for one in channel_ids if one not in found]
    if missing and parts.responses is not None:
        stored = await parts.responses.find_all(missing, key_id=key_id)
        found |= {one: _of_store(answer) for one, answer in stored.items()}
    if len(found) < len(channel_ids):
        raise _no_previous("a response before it is no longer there")
    return [found[one] for one in channel_ids]


def _turn(one: FoundResponse) -> list[Message]:
    """Return what was asked and answered."""
    if not isinstance(one.outcome, Completed):
        raise InvalidRequest(
            "previous_response_id: that response has no answer, or not yet",
            param="previous_response_id",
            code="previous_response_not_completed",
        )
    answer = replace(one.outcome.message or Message("assistant", one.text), stretches=())
    return [*messages_of(orjson.loads(one.record.input)), answer]


async def check_position(parts: Parts, shown: Shown, state: ChannelState, after: int) -> None:
    """Refuse a position past the events that the log has by now, which nobody can have been sent.

    Raises:
        LogRewound: it is past them.
        StoreUnavailable: Redis does not answer.
    """
    frames = ResponseFrames(shown, after=MAX_SEQUENCE)
    frames.head()
    if state.tail > QUEUED:
        async with aclosing(parts.follower.follow(state.channel_id, QUEUED)) as seen:
            async for one in seen:
                if not isinstance(one, LiveBatch):
                    raise StoreUnavailable("the events cannot be read now; try again")
                events = [decode_event(line) for line in one.lines]
                frames.of(events)
                if (error := no_answer(events[-1])) is not None:
                    frames.failure(error)
                if after <= frames.last or one.first_seq + len(one.lines) > state.tail:
                    break
    if after > frames.last:
        raise LogRewound(
            f"starting_after: the last event is number {frames.last}; begin again without it",
            param="starting_after",
        )


def _no_previous(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"previous_response_id: {why}",
        param="previous_response_id",
        code="previous_response_not_found",
    )
