"""Requests share batches, and each gets its own vectors, in order, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from relais_common.jobs.errors import EngineFailed, EngineRefused
from relais_embedding_worker.batches import SLICE, Batches, open_batches
from relais_embedding_worker.encoder import Vectors
from relais_testing.encoders import WatchedEncoder, whole
from relais_testing.waiting import wait_until


@pytest.fixture
def encoder() -> WatchedEncoder:
    return WatchedEncoder()


@pytest.fixture
async def batches(encoder: WatchedEncoder) -> AsyncIterator[Batches]:
    async with open_batches(encoder, max_batch_tokens=64, max_wait_s=0.001) as batches:
        yield batches
        encoder.gate.set()


def alone(encoder: WatchedEncoder, text: str) -> Vectors:
    """What the encoder gives for this text with nothing beside it."""
    row: Vectors = encoder.encode(whole(encoder, [text]))[0]
    return row


async def vectors(batches: Batches, *texts: str, key_id: str = "key") -> Vectors:
    return await batches.encode(key_id, await batches.tokenize(key_id, texts, None))


async def test_each_request_gets_its_vectors_in_order(
    batches: Batches, encoder: WatchedEncoder
) -> None:
    asked = [[f"{'word ' * (n * m % 30)}{n}" for m in range(1 + n)] for n in range(12)]
    got = await asyncio.gather(*(vectors(batches, *texts) for texts in asked))
    for texts, rows in zip(asked, got, strict=True):
        expected = np.stack([alone(encoder, text) for text in texts])
        np.testing.assert_allclose(rows, expected, atol=1e-6)


async def test_what_came_while_a_batch_ran_goes_together(
    batches: Batches, encoder: WatchedEncoder
) -> None:
    encoder.gate.clear()
    asking = [asyncio.create_task(vectors(batches, "first"))]
    await wait_until(lambda: len(encoder.batches) == 1)
    asking += [asyncio.create_task(vectors(batches, f"later {n}")) for n in range(5)]
    await wait_until(lambda: batches.waiting_tokens == 15)
    encoder.gate.set()
    await asyncio.gather(*asking)
    assert encoder.batches == [[2], [3] * 5]


async def test_cancelled_request_leaves_the_queue_at_once(
    batches: Batches, encoder: WatchedEncoder
) -> None:
    encoder.gate.clear()
    first = asyncio.create_task(vectors(batches, "first"))
    await wait_until(lambda: len(encoder.batches) == 1)
    large = asyncio.create_task(vectors(batches, *["word"] * 20))
    await wait_until(lambda: batches.waiting_tokens == 40)
    large.cancel()
    await asyncio.wait({large})
    assert batches.waiting_tokens == 0
    encoder.gate.set()
    await first
    assert len(encoder.batches) == 1


async def test_request_that_breaks_a_batch_fails_alone(
    batches: Batches, encoder: WatchedEncoder
) -> None:
    (poison,) = whole(encoder, ["poison"])
    encoder.poison = frozenset(poison.ids[1:])
    encoder.gate.clear()
    asking = [asyncio.create_task(vectors(batches, "first"))]
    await wait_until(lambda: len(encoder.batches) == 1)
    asking += [asyncio.create_task(vectors(batches, text)) for text in ("good", "poison", "fine")]
    await wait_until(lambda: batches.waiting_tokens == 6)
    encoder.gate.set()
    first, good, bad, fine = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(bad, EngineFailed)
    for rows, text in ((first, "first"), (good, "good"), (fine, "fine")):
        assert isinstance(rows, np.ndarray)
        np.testing.assert_allclose(rows[0], alone(encoder, text), atol=1e-6)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
async def test_vector_that_is_not_finite_is_never_given(
    batches: Batches, encoder: WatchedEncoder
) -> None:
    encoder.broken = True
    with pytest.raises(EngineFailed):
        await vectors(batches, "text")
    encoder.broken = False
    assert np.isfinite(await vectors(batches, "text")).all()


async def test_token_the_model_does_not_have_is_refused(batches: Batches) -> None:
    with pytest.raises(EngineRefused):
        await batches.tokenize("key", [(10**9,)], None)


LIMIT = 64
"""Tokens that the encoder reads of an input."""


def looked_at(encoder: WatchedEncoder) -> int:
    return sum(encoder.slices)


async def test_no_more_of_a_text_is_looked_at_than_the_model_reads(
    batches: Batches, encoder: WatchedEncoder
) -> None:
    texts = ["word " * 800_000] * 8
    tokens = await batches.tokenize("key", texts, None)
    assert all(len(one.ids) == LIMIT and one.truncated for one in tokens)
    assert looked_at(encoder) <= 8 * LIMIT * 8


async def test_text_that_says_little_is_read_on(batches: Batches, encoder: WatchedEncoder) -> None:
    gap = " " * 1_000_000
    texts = [gap, f"{gap}word", f"word{gap}" * 3, "x" * 100_000 + " end", "short"]
    tokens = await batches.tokenize("key", texts, None)
    assert tokens == whole(WatchedEncoder(), texts)
    assert not any(one.truncated for one in tokens)


async def test_many_inputs_are_tokenised_in_slices(
    batches: Batches, encoder: WatchedEncoder
) -> None:
    texts = [f"{number} " + "word " * (number % 60) for number in range(2048)]
    assert await batches.tokenize("key", texts, None) == whole(WatchedEncoder(), texts)
    assert max(encoder.slices) <= SLICE
    assert len(encoder.slices) < 2 * looked_at(encoder) / SLICE + 1


async def test_victim_waits_for_one_slice_of_another_key_s_many_texts(
    batches: Batches, encoder: WatchedEncoder
) -> None:
    encoder.tokenizer_gate.clear()
    many = [
        asyncio.create_task(batches.tokenize("attacker", ["word " * 400] * 2048, None))
        for _ in range(4)
    ]
    await wait_until(lambda: encoder.slices)
    victim = asyncio.create_task(batches.tokenize("victim", ["few words"], None))
    await asyncio.sleep(0)
    encoder.tokenizer_gate.set()
    await victim
    assert encoder.slices.index(len("few words")) <= 2
    assert not any(one.done() for one in many)
    await asyncio.gather(*many)


async def test_victim_does_not_wait_for_a_text_that_is_read_to_its_end(
    batches: Batches, encoder: WatchedEncoder
) -> None:
    encoder.held_from = SLICE
    encoder.tokenizer_gate.clear()
    long = asyncio.create_task(batches.tokenize("attacker", [" " * 1_000_000], None))
    await wait_until(lambda: max(encoder.slices, default=0) > SLICE)
    await batches.tokenize("victim", ["few words"], None)
    assert not long.done()
    encoder.tokenizer_gate.set()
    await long


async def test_victim_is_in_the_next_batch_whatever_another_key_has_waiting(
    batches: Batches, encoder: WatchedEncoder
) -> None:
    encoder.gate.clear()
    texts = ["word " * 60] * 20
    large = [asyncio.create_task(vectors(batches, *texts, key_id="attacker")) for _ in range(40)]
    await wait_until(lambda: batches.waiting_tokens >= 61 * 20 * 40 - 2 * 64)
    victim = asyncio.create_task(vectors(batches, "few words", key_id="victim"))
    waiting = batches.waiting_tokens
    await wait_until(lambda: batches.waiting_tokens > waiting)
    encoder.gate.set()
    await victim
    # Two were formed before it came; attackers' turns come after it.
    assert [3] in encoder.batches[:4]
    for one in large:
        one.cancel()
    await asyncio.wait(large)
