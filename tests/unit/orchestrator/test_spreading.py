"""Which shard a request goes to."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any

import pytest

from relais_common.config.api_keys import ApiKey
from relais_common.jobs.chat import Message
from relais_common.queue.shards import Shards
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.submission.spreading import MOST_ABOVE, REMEMBERED, Spreader
from relais_testing.builders import MODEL
from relais_testing.memory import MemoryStore

SHARDS = 4
SYSTEM = Message("system", "You are what all conversations begin with. " * 20)


def spreader(number: int = SHARDS) -> Spreader:
    return Spreader(Shards(MemoryStore(), {MODEL: number}))


def caller(key_id: str = "key", **limits: Any) -> Caller:
    return Caller(key_id, ApiKey(digests=(), **limits))


def turns(name: str, count: int = 1) -> tuple[Message, ...]:
    talk = [(Message("user", f"{name}, {at}"), Message("assistant", "Yes.")) for at in range(count)]
    return (SYSTEM, *chain(*talk), Message("user", "And?"))


def send(spreader: Spreader, messages: tuple[Message, ...] | None = None) -> int:
    best, *_ = spreader.shards_for(MODEL, caller(), idempotency=None, messages=messages)
    spreader.note(MODEL, best)
    return best


def test_a_model_with_one_queue_has_no_choice() -> None:
    one = spreader(1)
    assert one.shards_for(MODEL, caller(), idempotency="h", messages=turns("a")) == [0]


@pytest.mark.parametrize(
    "limit", ["requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrent_requests"]
)
def test_a_key_with_limits_has_one_shard_for_all_it_sends(limit: str) -> None:
    one, limits = spreader(), {limit: 9}
    chosen = {
        (*one.shards_for(MODEL, caller("key", **limits), idempotency=name, messages=messages),)
        for name in (None, "a", "b")
        for messages in (None, turns("a"), turns("b"))
    }
    assert len(chosen) == 1
    assert {len(shards) for shards in chosen} == {1}


def test_keys_with_limits_are_spread() -> None:
    one = spreader()
    found = {
        shard
        for number in range(40)
        for shard in one.shards_for(
            MODEL,
            caller(f"key-{number}", tokens_per_day=9),
            idempotency=None,
            messages=None,
        )
    }
    assert found == set(range(SHARDS))


def test_an_idempotency_key_leads_to_one_shard_whatever_is_sent_and_wherever() -> None:
    chosen = {
        (*one.shards_for(MODEL, caller(), idempotency="h", messages=messages),)
        for one in (spreader(), spreader())
        for messages in (turns("a"), turns("b"), None)
    }
    assert len(chosen) == 1


def test_what_has_no_conversation_goes_round() -> None:
    one = spreader()
    assert Counter(send(one) for _ in range(80)) == dict.fromkeys(range(SHARDS), 20)


def test_turns_of_a_conversation_go_to_one_shard_at_any_orchestrator() -> None:
    for name in ("a", "b", "c"):
        chosen = {send(spreader(), turns(name, count)) for count in (1, 2, 30)}
        assert len(chosen) == 1


def test_conversations_with_one_system_prompt_are_spread() -> None:
    one = spreader()
    found = Counter(send(one, turns(str(number))) for number in range(400))
    assert min(found.values()) > 50


def test_no_shard_gets_clearly_more_than_its_part_though_all_say_the_same() -> None:
    one = spreader()
    sent = [send(one, turns("the same")) for _ in range(20 * REMEMBERED)]
    lately = Counter(sent[-SHARDS * REMEMBERED :])
    assert max(lately.values()) <= MOST_ABOVE * REMEMBERED + 2


def test_all_shards_are_tried_where_any_will_do() -> None:
    one = spreader()
    for messages in (None, turns("a")):
        tried = one.shards_for(MODEL, caller(), idempotency=None, messages=messages)
        assert sorted(tried) == list(range(SHARDS))


def test_one_shard_more_moves_few_keys() -> None:
    few, many = spreader(4), spreader(5)
    keys = [caller(f"key-{number}", tokens_per_day=9) for number in range(200)]
    moved = sum(
        few.shards_for(MODEL, key, idempotency=None, messages=None)
        != many.shards_for(MODEL, key, idempotency=None, messages=None)
        for key in keys
    )
    assert moved < 80


async def test_idempotency_keys_are_looked_for_where_they_led_before() -> None:
    store = MemoryStore()
    for number in (1, 3):
        await store.note_shards(MODEL, number)
    shards = Shards(store, {MODEL: 2})
    await shards.look()
    one, others = Spreader(shards), [spreader(number) for number in (1, 2, 3)]
    limited = caller(tokens_per_day=9)
    for name in map(str, range(20)):
        for now in (caller(), limited):
            (best,) = one.shards_for(MODEL, now, idempotency=name, messages=None)
            before = one.shards_before(MODEL, now, name)
            assert best not in before
            # Before, its key may have had limits, or none.
            led = {
                other.shards_for(MODEL, then, idempotency=name, messages=None)[0]
                for other in others
                for then in (caller(), limited)
            }
            assert {best, *before} == led


def test_a_model_that_never_had_several_queues_is_looked_at_nowhere_else() -> None:
    assert spreader(1).shards_before(MODEL, caller(), "h") == []


def test_lines_of_a_batch_go_to_all_shards_or_to_that_of_a_key_with_limits() -> None:
    one = spreader()
    assert one.shards_of_lines(MODEL, caller()) == list(range(SHARDS))
    limited = caller(tokens_per_minute=9)
    own = one.shards_for(MODEL, limited, idempotency=None, messages=None)
    assert one.shards_of_lines(MODEL, limited) == own
