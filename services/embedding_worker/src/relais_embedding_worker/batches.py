"""Runs inputs of many requests through one encoder: tokenises in slices and encodes in batches, in threads."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import numpy as np
import structlog

from relais_common.jobs.errors import EngineFailed, RelaisError
from relais_common.jobs.job import InputType
from relais_common.runtime.grouping import groups
from relais_common.runtime.lifecycle import background
from relais_common.worker.turns import Turns
from relais_embedding_worker.batcher import Batcher
from relais_embedding_worker.encoder import Encoder, Input, Tokens, Vectors

log = structlog.get_logger(__name__)

SLICE = 16_384
"""Characters tokenised in one turn, about 10 ms."""

FIRST_REACH = 8
"""Characters examined for each token that the model reads; four times as many whenever they are too few."""

MOST_AT_ONCE = 2
"""Batches handed to the thread. The second one waits, so that the encoder is never idle between two."""


class _Request:
    """The state of one call of `encode`."""

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
    """Shares an encoder between requests, while `run` is running.

    Args:
        max_batch_tokens: tokens of a batch, including padding.
        max_wait_s: how long a small batch waits for inputs that are being tokenised.
    """

    def __init__(self, encoder: Encoder, *, max_batch_tokens: int, max_wait_s: float) -> None:
        self._encoder = encoder
        self._max_batch_tokens = max_batch_tokens
        self._max_wait_s = max_wait_s
        self._batcher: Batcher[_Request] = Batcher(max_batch_tokens)
        self._changed = asyncio.Event()
        self._running = 0
        self._tokenizing = 0
        self._untokenized: Counter[str] = Counter()
        self._slices = Turns("tokenize")
        self._long = Turns("tokenize-long")
        self._encoder_thread = ThreadPoolExecutor(1, "encode")

    @property
    def waiting_tokens(self) -> int:
        """Return the tokens not yet handed to the encoder."""
        return self._batcher.tokens

    def keys_with(self, tokens: int) -> list[str]:
        """Return the keys with this many waiting tokens, or possibly as many once counted."""
        waiting = self._untokenized + Counter(self._batcher.tokens_of())
        return [key_id for key_id, count in waiting.items() if count >= tokens]

    async def tokenize(
        self, key_id: str, inputs: Sequence[Input], input_type: InputType | None
    ) -> list[Tokens]:
        """Tokenise off the event loop, in slices; keys take turns. Raises as `Encoder.tokenize` does.

        Only as much of a text is examined as the model reads. Inputs that need more than a slice at once
        have a separate thread.
        """
        most = sum(min(len(one), self._encoder.info.max_tokens) for one in inputs)
        self._tokenizing += 1
        self._untokenized[key_id] += most
        try:
            return await self._tokenize(key_id, inputs, input_type)
        finally:
            self._tokenizing -= 1
            self._untokenized[key_id] -= most
            self._untokenized = +self._untokenized

    async def _tokenize(
        self, key_id: str, inputs: Sequence[Input], input_type: InputType | None
    ) -> list[Tokens]:
        tokens: dict[int, Tokens] = {}
        left: Sequence[int] = range(len(inputs))
        reach = FIRST_REACH * self._encoder.info.max_tokens
        while left:
            sizes = ((at, _examined(inputs[at], reach)) for at in left)
            for group, size in groups(sizes, SLICE):
                turns = self._slices if size <= SLICE else self._long
                given = await turns.run(
                    key_id,
                    partial(
                        self._encoder.tokenize, [inputs[at] for at in group], input_type, reach
                    ),
                )
                tokens |= {at: one for at, one in zip(group, given, strict=True) if one is not None}
            left = [at for at in left if at not in tokens]
            reach *= 4
        return [tokens[at] for at in range(len(inputs))]

    async def encode(self, key_id: str, tokens: Sequence[Tokens]) -> Vectors:
        """Return one finite vector for each input, in order. On cancellation, waiting inputs are dropped.

        Raises:
            EngineFailed: the encoder failed on one of them.
        """
        request = _Request(tokens, self._encoder.info.dimensions)
        self._batcher.add(key_id, request, [len(one.ids) for one in tokens])
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
        # Form a batch ahead of time only if waiting would not make it larger.
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
            # Find the faulty request: the others get their vectors.
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
        """Wait for the threads."""
        self._slices.close()
        self._long.close()
        self._encoder_thread.shutdown(wait=True, cancel_futures=True)


def _examined(one: Input, reach: int) -> int:
    return min(len(one), reach) if isinstance(one, str) else len(one)


@asynccontextmanager
async def open_batches(
    encoder: Encoder, *, max_batch_tokens: int, max_wait_s: float
) -> AsyncIterator[Batches]:
    """Yield batches that run inside the context."""
    batches = Batches(encoder, max_batch_tokens=max_batch_tokens, max_wait_s=max_wait_s)
    try:
        async with background(batches.run()):
            yield batches
    finally:
        await asyncio.to_thread(batches.close)
