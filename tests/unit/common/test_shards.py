"""What a process knows of the queues of its models."""

from __future__ import annotations

import pytest

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.shards import Shards
from relais_testing.memory import MemoryStore


class Registry(MemoryStore):
    """One model's node is away."""

    async def shards(self, model: str) -> frozenset[int]:
        if model == "away":
            raise StoreUnavailable("its node does not answer")
        return await super().shards(model)


async def test_a_model_whose_node_is_away_holds_up_no_other() -> None:
    store = Registry()
    shards = Shards(store, {"away": 1, "there": 2, "grown": 1})
    # What this process does not spread, it need not know to begin.
    await shards.announce()
    assert await store.shards("there") == {2}
    await store.note_shards("grown", 3)
    with pytest.raises(StoreUnavailable):
        await shards.look()
    assert len(shards.of("grown")) == 3


async def test_a_model_that_is_spread_is_told_before_it_is() -> None:
    with pytest.raises(StoreUnavailable):
        await Shards(Registry(), {"away": 2, "there": 1}).announce()
