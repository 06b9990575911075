"""One stream of live batches, many readers, bounded buffers."""

from __future__ import annotations

import asyncio

from relais_common.queue.fanout import MERGED_BYTES, BufferedSubscription, Fanout
from relais_common.queue.ports import LiveBatch
from relais_testing.waiting import LIVENESS_S, returns_at_once


def batch(number: int) -> LiveBatch:
    return LiveBatch(number, [b"line"])


async def test_batches_come_out_in_order() -> None:
    subscription = BufferedSubscription(10)
    for number in (0, 2, 4):
        subscription.put(batch(number))
    assert [await subscription.next(0) for _ in range(4)] == [batch(0), batch(2), batch(4), None]


async def test_what_follows_on_comes_in_one_piece() -> None:
    subscription = BufferedSubscription(10)
    for number in (1, 2, 3, 7, 8, 8):
        subscription.put(batch(number))
    got = [await subscription.next(0) for _ in range(4)]
    whole = [LiveBatch(1, [b"line"] * 3), LiveBatch(7, [b"line"] * 2), batch(8), None]
    assert got == whole


async def test_a_piece_of_several_batches_is_bounded_and_counts_no_more() -> None:
    lines = [b"x" * (MERGED_BYTES // 2)]
    subscription = BufferedSubscription(max_bytes=2 * MERGED_BYTES)
    for first in range(3):
        for number in range(3):
            subscription.put(LiveBatch(first * 3 + number, lines))
        got = [await subscription.next(0) for _ in range(2)]
        assert got == [LiveBatch(first * 3, lines * 2), LiveBatch(first * 3 + 2, lines)]


async def test_reader_that_waits_is_woken() -> None:
    subscription = BufferedSubscription(10)
    waiting = asyncio.create_task(subscription.next(LIVENESS_S))
    await asyncio.sleep(0)
    subscription.put(batch(1))
    assert await waiting == batch(1)


async def test_overflow_is_told_once_and_what_was_buffered_is_gone() -> None:
    subscription = BufferedSubscription(2)
    for number in range(3):
        subscription.put(batch(number))
    assert await subscription.next(LIVENESS_S) is None
    subscription.put(batch(9))
    assert await subscription.next(LIVENESS_S) == batch(9)


async def test_batches_between_overflow_and_its_notice_are_left_to_the_log() -> None:
    subscription = BufferedSubscription(1)
    for number in range(10):
        subscription.put(batch(number))
    assert await subscription.next(LIVENESS_S) is None
    assert await subscription.next(0) is None


async def test_large_batches_overflow_long_before_there_are_many() -> None:
    subscription = BufferedSubscription(max_batches=100, max_bytes=1000)
    for number in range(1, 4):
        subscription.put(LiveBatch(number, [b"x" * 400]))
    assert await subscription.next(LIVENESS_S) is None
    subscription.put(LiveBatch(9, [b"x" * 1001]))  # more than a whole buffer: the log has it
    assert await subscription.next(LIVENESS_S) is None
    for number in range(10):  # what was taken counts no more
        subscription.put(LiveBatch(number, [b"x" * 400, b"x" * 400]))
        assert (await subscription.next(LIVENESS_S)) == LiveBatch(number, [b"x" * 400, b"x" * 400])


async def test_drop_wakes_a_reader_that_waits() -> None:
    subscription = BufferedSubscription(1)
    waiting = asyncio.create_task(subscription.next(LIVENESS_S))
    await asyncio.sleep(0)
    subscription.drop()
    assert await returns_at_once(waiting)
    assert waiting.result() is None


async def test_cancelled_reader_loses_no_batch() -> None:
    subscription = BufferedSubscription(5)
    waiting = asyncio.create_task(subscription.next(LIVENESS_S))
    await asyncio.sleep(0)
    subscription.put(batch(1))
    waiting.cancel()
    await asyncio.wait({waiting})
    if waiting.cancelled():
        assert await subscription.next(0) == batch(1)
    else:
        assert waiting.result() == batch(1)


async def test_readers_get_their_own_channel_only() -> None:
    fanout = Fanout()
    one, two, other = fanout.join("a"), fanout.join("a"), fanout.join("b")
    fanout.publish("a", batch(1))
    assert await one.next(0) == batch(1)
    assert await two.next(0) == batch(1)
    assert await other.next(0) is None


async def test_slow_reader_costs_the_others_nothing() -> None:
    fanout = Fanout(max_batches=2)
    slow, quick = fanout.join("a"), fanout.join("a")
    for number in range(5):
        fanout.publish("a", batch(number))
        assert await quick.next(0) == batch(number)
    assert await slow.next(0) is None


async def test_drop_all_reaches_every_reader() -> None:
    fanout = Fanout()
    one, two = fanout.join("a"), fanout.join("b")
    fanout.publish("a", batch(1))
    fanout.drop_all()
    fanout.publish("a", batch(2))
    assert await returns_at_once(one.next(LIVENESS_S))
    assert await returns_at_once(two.next(LIVENESS_S))


async def test_count_follows_readers_in_and_out() -> None:
    fanout = Fanout()
    assert fanout.count("a") == 0
    one, two = fanout.join("a"), fanout.join("a")
    assert fanout.count("a") == 2
    fanout.leave("a", one)
    assert fanout.count("a") == 1
    fanout.leave("a", two)
    assert fanout.count("a") == 0
    fanout.publish("a", batch(1))  # nobody reads: nothing happens


async def test_reader_that_is_cancelled_while_it_waits_leaves_no_timer_behind() -> None:
    subscription = BufferedSubscription(10)
    waiting = asyncio.create_task(subscription.next(3600))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    subscription.put(batch(1))
    assert await subscription.next(LIVENESS_S) == batch(1)
