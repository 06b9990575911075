"""`python -m relais_testing.stalling_worker`: the llm worker, with an engine that can be made to stop as vLLM's may.

A prompt that contains `[stall]` stops the engine: nobody gets a token more, and no abort is heard, until it is killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from relais_common.jobs.chat import Chat
from relais_common.jobs.errors import EngineDead
from relais_common.jobs.job import Sampling
from relais_llm_worker.__main__ import main
from relais_llm_worker.engine import NOTHING, Emitted, Generation
from relais_llm_worker.engines import engine_deterministic


class StallingEngine(engine_deterministic.DeterministicEngine):
    """Deaf from the step of a `[stall]` prompt on."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._stalled = False
        self._killed = asyncio.Event()

    async def check_structure(
        self, sampling: Sampling, *, key_id: str, param: str | None = None
    ) -> None:
        """Anything goes: what it is given stalls by its prompt."""

    @asynccontextmanager
    async def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        sampling: Sampling,
        max_tokens: int,
        emitted: Emitted = NOTHING,
        chat: Chat | None = None,
        prompt_logprobs: int | None = None,
        media: object | None = None,
        *,
        tokens_at_once: int = 1,
    ) -> AsyncIterator[Generation]:
        async with super().generate(
            request_id, prompt_token_ids, sampling, max_tokens, emitted, chat, prompt_logprobs
        ) as generation:
            if b"[stall]" in bytes(prompt_token_ids):
                self._stalled = True
            try:
                yield generation
            finally:
                if self._stalled:
                    await self._killed.wait()

    async def step(self) -> None:
        if self._stalled:
            await self._killed.wait()
            raise EngineDead("the engine was killed")
        await super().step()

    def kill(self) -> None:
        super().kill()
        self._killed.set()


if __name__ == "__main__":
    engine_deterministic.DeterministicEngine = StallingEngine  # type: ignore[misc]
    main()
