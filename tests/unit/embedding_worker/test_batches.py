"""Requests share batches, and each gets its own vectors, in order, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from relais_common.errors import EngineFailed, EngineRefused
from relais_embedding_worker.batches import Batches, open_batches
from relais_embedding_worker.encoder import Vectors
from support.encoders import WatchedEncoder
from support.waiting import wait_until


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
    row: Vectors = encoder.encode(encoder.tokenize([text], None))[0]
    return row


async def vectors(batches: Batches, *texts: str) -> Vectors:
    return await batches.encode(await batches.tokenize(texts, None))


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
    (poison,) = encoder.tokenize(["poison"], None)
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
        await batches.tokenize([(10**9,)], None)
