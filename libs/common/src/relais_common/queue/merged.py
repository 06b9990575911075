"""Views of models whose requests are spread over several queues: sums, and the worst where there is no sum."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from datetime import date
from itertools import chain
from statistics import fmean
from typing import Any, TypeVar

from relais_common.jobs.channels import channel_model
from relais_common.jobs.inspection import (
    ChannelFilter,
    ChannelView,
    DeadLetter,
    KeyBacklog,
    QueueView,
)
from relais_common.jobs.job import Accepted
from relais_common.jobs.limits import COUNTERS, DayUsage
from relais_common.queue.ports import Accounts, Inspector
from relais_common.queue.shards import Shards

_View = TypeVar("_View")


async def _of_each(
    queues: Sequence[str], view_of: Callable[[str], Coroutine[Any, Any, _View]]
) -> list[_View]:
    return await asyncio.gather(*map(view_of, queues))


def _first(
    pages: Sequence[list[_View]], limit: int, *, key: Callable[[_View], float], reverse: bool
) -> list[_View]:
    """Return the first of all pages. A queue puts its own page in order."""
    if len(pages) == 1:
        return pages[0]
    return sorted(chain(*pages), key=key, reverse=reverse)[:limit]


class MergedInspector:
    """`Inspector` of whole models."""

    def __init__(self, inspector: Inspector, shards: Shards) -> None:
        self._inspector = inspector
        self._shards = shards
        # These are about one request, whose channel names its queue.
        self.dead_letter = inspector.dead_letter
        self.drop = inspector.drop

    async def queue(self, model: str, *, top_keys: int) -> QueueView:
        views = await _of_each(
            self._shards.of(model), lambda queue: self._inspector.queue(queue, top_keys=top_keys)
        )
        return merged(model, views, top_keys)

    async def channels(
        self, model: str, *, which: ChannelFilter, limit: int, latest: bool = False
    ) -> list[ChannelView]:
        pages = await _of_each(
            self._shards.of(model),
            lambda queue: self._inspector.channels(queue, which=which, limit=limit, latest=latest),
        )
        return _first(pages, limit, key=lambda one: one.deadline_in_s, reverse=latest)

    async def dead_letters(self, model: str, *, limit: int) -> list[DeadLetter]:
        pages = await _of_each(
            self._shards.of(model),
            lambda queue: self._inspector.dead_letters(queue, limit=limit),
        )
        return _first(pages, limit, key=lambda one: one.failed_at_s, reverse=True)

    async def replay(
        self, channel_id: str, *, new_channel_id: str, max_waiting: int
    ) -> Accepted | None:
        shards = self._shards.of(channel_model(channel_id))
        return await self._inspector.replay(
            channel_id,
            new_channel_id=new_channel_id,
            max_waiting=-(-max_waiting // len(shards)),
        )


class MergedAccounts:
    """`Accounts` of whole models."""

    def __init__(self, accounts: Accounts, shards: Shards) -> None:
        self._accounts = accounts
        self._shards = shards

    async def usage(
        self, model: str, *, since: date, until: date, key_id: str | None
    ) -> list[DayUsage]:
        pages = await _of_each(
            self._shards.of(model),
            lambda queue: self._accounts.usage(queue, since=since, until=until, key_id=key_id),
        )
        if len(pages) == 1:
            return pages[0]
        sums: dict[tuple[date, str], DayUsage] = {}
        for one in chain(*pages):
            so_far = sums.get((one.date, one.key_id))
            more = {} if so_far is None else {name: getattr(so_far, name) for name in COUNTERS}
            sums[one.date, one.key_id] = replace(
                one,
                model=model,
                **{name: getattr(one, name) + more.get(name, 0) for name in COUNTERS},
            )
        return [one for _, one in sorted(sums.items())]


def merged(model: str, views: Sequence[QueueView], top_keys: int) -> QueueView:
    """Return the view of a model from those of its queues.

    Numbers are sums. Of ages and waits it has the longest, so that a stuck queue shows.
    """
    if len(views) == 1:
        return views[0]
    by_priority: Counter[str] = Counter()
    by_key: Counter[str] = Counter()
    for view in views:
        by_priority.update(view.waiting_by_priority)
        by_key.update({one.key_id: one.waiting for one in view.waiting_by_key})
    longest = sorted(by_key.items(), key=lambda item: (-item[1], item[0]))[:top_keys]
    service = [view.service_s for view in views if view.service_s is not None]
    return QueueView(
        model=model,
        waiting=sum(view.waiting for view in views),
        waiting_by_priority={name: by_priority[name] for name in views[0].waiting_by_priority},
        waiting_by_key=tuple(KeyBacklog(*item) for item in longest),
        oldest_waiting_s=_most(view.oldest_waiting_s for view in views),
        suspects=sum(view.suspects for view in views),
        running=sum(view.running for view in views),
        dead_letters=sum(view.dead_letters for view in views),
        stored_bytes=sum(view.stored_bytes for view in views),
        waiting_traces=sum(view.waiting_traces for view in views),
        oldest_trace_s=_most(view.oldest_trace_s for view in views),
        service_s=fmean(service) if service else None,
        estimated_wait_s=_most(view.estimated_wait_s for view in views),
    )


def _most(seconds: Iterable[float | None]) -> float | None:
    return max((one for one in seconds if one is not None), default=None)
