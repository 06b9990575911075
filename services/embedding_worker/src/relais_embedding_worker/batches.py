"""Inputs of many requests through one encoder: tokenised in one thread, encoded in another, a batch at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
import structlog

from relais_common.errors import EngineFailed, RelaisError
from relais_common.jobs import InputType
from relais_common.lifecycle import background
from relais_embedding_worker.batcher import Batcher
from relais_embedding_worker.encoder import Encoder, Input, Tokens, Vectors

log = structlog.get_logger(__name__)

MOST_AT_ONCE = 2
"""Batches in the thread's hands. The second waits there, so that the encoder is never idle between two."""


class _Request:
    """What one call of `encode` waits for."""

    def __init__(self, tokens: Sequence[Tokens], dimensions: int) -> None:
        self.tokens = tokens
        self.rows = np.empty((len(tokens), dimensions), np.float32)
        self.left = len(tokens)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def store(self, at: Sequence[int], rows: Vectors) -> None:
        if self.done.done():
            return
        if not np.isfinite(rows).all():
            self.fail(EngineFailed("the model gave a vector that is not finite"))
            return
        self.rows[at] = rows
        self.left -= len(at)
        if self.left == 0:
            self.done.set_result(None)

    def fail(self, error: RelaisError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Batches:
    """Shares an encoder between requests. `run` must be running meanwhile.

    Args:
        max_batch_tokens: padding counted.
        max_wait_s: how long a small batch waits for more, while more is on its way.
    """

    def __init__(self, encoder: Encoder, *, max_batch_tokens: int, max_wait_s: float) -> None:
        self._encoder = encoder
        self._max_batch_tokens = max_batch_tokens
        self._max_wait_s = max_wait_s
        self._batcher: Batcher[_Request] = Batcher(max_batch_tokens)
        self._changed = asyncio.Event()
        self._running = 0
        self._tokenizing = 0
        self._tokenizer_thread = ThreadPoolExecutor(1, "tokenize")
        self._encoder_thread = ThreadPoolExecutor(1, "encode")

    @property
    def waiting_tokens(self) -> int:
        """Not yet handed to the encoder."""
        return self._batcher.tokens

    async def tokenize(self, inputs: Sequence[Input], input_type: InputType | None) -> list[Tokens]:
        """Off the event loop; raises as `Encoder.tokenize`."""
        self._tokenizing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._tokenizer_thread, self._encoder.tokenize, inputs, input_type
            )
        finally:
            self._tokenizing -= 1

    async def encode(self, tokens: Sequence[Tokens]) -> Vectors:
        """One finite vector for each, in order. Cancelled, it gives up what still waits.

        Raises:
            EngineFailed: the encoder failed on one of them.
        """
        request = _Request(tokens, self._encoder.info.dimensions)
        self._batcher.add(request, [len(one.ids) for one in tokens])
        self._changed.set()
        try:
            await request.done
        finally:
            self._batcher.remove(request)
        return request.rows

    async def run(self) -> None:
        """Form batches and hand them over."""
        async with asyncio.TaskGroup() as group:
            while True:
                while not self._may_begin():
                    self._changed.clear()
                    await self._changed.wait()
                if self._more_is_coming():
                    await asyncio.sleep(self._max_wait_s)
                batch = self._batcher.next()
                if batch:
                    self._running += 1
                    group.create_task(self._encode(batch))

    def _may_begin(self) -> bool:
        if self._running == 0:
            return self._batcher.tokens > 0
        # Ahead of time only what would not grow by waiting.
        return self._running < MOST_AT_ONCE and self._batcher.tokens >= self._max_batch_tokens

    def _more_is_coming(self) -> bool:
        return self._tokenizing > 0 and 2 * self._batcher.tokens < self._max_batch_tokens

    async def _encode(self, batch: Sequence[tuple[_Request, int]]) -> None:
        try:
            await self._encode_shared(batch)
        finally:
            self._running -= 1
            self._changed.set()

    async def _encode_shared(self, batch: Sequence[tuple[_Request, int]]) -> None:
        indexes: dict[_Request, list[int]] = {}
        places: dict[_Request, list[int]] = {}
        for place, (request, index) in enumerate(batch):
            indexes.setdefault(request, []).append(index)
            places.setdefault(request, []).append(place)
        try:
            rows = await self._in_thread(batch)
        except Exception:
            log.exception("batch_failed", requests=len(indexes))
            if len(indexes) == 1:
                for request in indexes:
                    request.fail(EngineFailed("the encoder failed on this request"))
                return
            # Find the request at fault: the others get their vectors.
            for request, own in indexes.items():
                await self._encode_shared([(request, index) for index in own])
            return
        for request, own in indexes.items():
            request.store(own, rows[places[request]])

    async def _in_thread(self, batch: Sequence[tuple[_Request, int]]) -> Vectors:
        tokens = [request.tokens[index] for request, index in batch]
        return await asyncio.get_running_loop().run_in_executor(
            self._encoder_thread, self._encoder.encode, tokens
        )

    def close(self) -> None:
        """Wait for what a thread is at."""
        for thread in (self._tokenizer_thread, self._encoder_thread):
            thread.shutdown(wait=True, cancel_futures=True)


@asynccontextmanager
async def open_batches(
    encoder: Encoder, *, max_batch_tokens: int, max_wait_s: float
) -> AsyncIterator[Batches]:
    """At work inside the context."""
    batches = Batches(encoder, max_batch_tokens=max_batch_tokens, max_wait_s=max_wait_s)
    try:
        async with background(batches.run()):
            yield batches
    finally:
        await asyncio.to_thread(batches.close)
