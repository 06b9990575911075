"""The commands' actions. Every result has two forms: for programs, and for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from rich.console import RenderableType
from rich.text import Text

from relais_admin import tables
from relais_admin.arguments import Arguments
from relais_admin.settings import Settings
from relais_common.jobs.channels import channel_model, channel_queue, new_channel_id
from relais_common.jobs.errors import ChannelNotFound, DeadLetterNotFound
from relais_common.jobs.job import StopReason
from relais_common.queue.merged import MergedInspector
from relais_common.queue.redis_store import RedisStore
from relais_common.queue.shards import Shards

TOP_KEYS = 20


@dataclass(frozen=True, slots=True)
class Output:
    """The result of a command.

    Attributes:
        body: for `--json`; the same form as the HTTP route's.
        shown: the same for a person.
    """

    body: Any
    shown: RenderableType

    def as_json(self) -> str:
        """Return the body as JSON for `--json`."""
        return orjson.dumps(self.body, option=orjson.OPT_INDENT_2).decode() + "\n"


async def queues(store: RedisStore, wanted: Arguments, _: Settings) -> Output:
    """Show the queues of models."""
    inspector = await _inspector(store, wanted.models)
    views = [await inspector.queue(one, top_keys=TOP_KEYS) for one in wanted.models]
    return Output({"queues": views}, tables.queues(views))


async def workers(store: RedisStore, wanted: Arguments, _: Settings) -> Output:
    """Show live workers."""
    states = [
        state
        for state in await store.registry.alive()
        if not wanted.models or state.model in wanted.models
    ]
    states.sort(key=lambda one: (one.model, one.worker_id))
    return Output({"workers": states}, tables.workers(states))


async def channels(store: RedisStore, wanted: Arguments, _: Settings) -> Output:
    """Show unfinished requests."""
    inspector = await _inspector(store, wanted.models)
    found = {
        model: await inspector.channels(
            model, which=wanted.which, limit=wanted.limit, latest=wanted.latest
        )
        for model in wanted.models
    }
    body = {"channels": [view for views in found.values() for view in views]}
    return Output(body, tables.channels(found))


async def dead_letters(store: RedisStore, wanted: Arguments, _: Settings) -> Output:
    """Show dead letters."""
    inspector = await _inspector(store, wanted.models)
    found = {
        model: await inspector.dead_letters(model, limit=wanted.limit) for model in wanted.models
    }
    body = {"dead_letters": [letter for letters in found.values() for letter in letters]}
    return Output(body, tables.dead_letters(found))


async def dead_letter(store: RedisStore, wanted: Arguments, _: Settings) -> Output:
    """Show one dead letter. Raises DeadLetterNotFound."""
    letter = await store.inspector.dead_letter(wanted.channel_id)
    if letter is None:
        raise _no_dead_letter(wanted)
    return Output(letter, tables.dead_letter(letter))


async def replay(store: RedisStore, wanted: Arguments, settings: Settings) -> Output:
    """Queue a dead letter again, on a new channel."""
    inspector = await _inspector(store, [channel_model(wanted.channel_id)])
    accepted = await inspector.replay(
        wanted.channel_id,
        new_channel_id=new_channel_id(channel_queue(wanted.channel_id)),
        max_waiting=settings.max_waiting,
    )
    if accepted is None:
        raise _no_dead_letter(wanted)
    body = {
        "channel_id": accepted.channel_id,
        "replay_of": wanted.channel_id,
        "status": accepted.status,
        "queue_position": accepted.queue_position,
        "estimated_wait_s": accepted.estimated_wait_s,
    }
    before = "was replayed before" if accepted.duplicate else "replayed"
    return Output(body, Text(f"{before} as {accepted.channel_id} ({accepted.status})"))


async def drop(store: RedisStore, wanted: Arguments, _: Settings) -> Output:
    """Delete the request of a dead letter."""
    if not await store.inspector.drop(wanted.channel_id):
        raise _no_dead_letter(wanted)
    body = {"channel_id": wanted.channel_id, "dropped": True}
    return Output(body, Text(f"dropped {wanted.channel_id}"))


async def cancel(store: RedisStore, wanted: Arguments, _: Settings) -> Output:
    """Cancel a request."""
    status = await store.intake.cancel(wanted.channel_id, StopReason.CLIENT)
    if status is None:
        raise ChannelNotFound(f"there is no channel {wanted.channel_id}")
    words = status if status.is_terminal else "its worker was asked to stop"
    body = {"channel_id": wanted.channel_id, "status": status}
    return Output(body, Text(f"{wanted.channel_id}: {words}"))


async def _inspector(store: RedisStore, models: Iterable[str]) -> MergedInspector:
    shards = Shards(store.registry, dict.fromkeys(models, 0))
    await shards.look()
    return MergedInspector(store.inspector, shards)


def _no_dead_letter(wanted: Arguments) -> DeadLetterNotFound:
    return DeadLetterNotFound(f"there is no dead letter {wanted.channel_id}")
