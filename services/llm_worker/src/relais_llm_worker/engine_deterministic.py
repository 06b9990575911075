"""An engine whose every token follows from the prompt: for tests and benchmarks of what is around it.

Token i of an answer is a word chosen by a hash of the prompt and i, so any worker gives the same answer, and
an interrupted one can be checked to the letter. No model, no GPU.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from relais_common.errors import EngineDead, EngineFailed, EngineRefused
from relais_common.jobs import Message, Sampling
from relais_llm_worker.engine import Chunk, EngineLoad, Generation, ModelInfo

_WORDS = tuple(
    "la file attend son tour et le relais porte chaque mot jusqu au guichet ouvert "
    "the queue keeps its order while every token finds an open window".split()
)
DEFAULT_ANSWER_TOKENS = 32


def token_text(token_id: int) -> str:
    """The text of one token of an answer."""
    return f"{_WORDS[token_id % len(_WORDS)]} "


def answer_token_ids(prompt_token_ids: list[int], count: int) -> list[int]:
    """The first `count` token ids of the answer to a prompt."""
    seed = hashlib.sha256(repr(prompt_token_ids).encode()).digest()
    return [
        int.from_bytes(hashlib.sha256(seed + i.to_bytes(4, "big")).digest()[:2], "big")
        for i in range(count)
    ]


class DeterministicEngine:
    """One token per request and step.

    Args:
        tokens_per_s: pace of each request; 0 gives tokens as fast as the event loop turns.

    Two prompts ask for faults, as tests need them: one that contains `[engine-fault]` fails alone, one that
    contains `[engine-death]` takes the engine with it.
    """

    def __init__(
        self, name: str, *, max_model_len: int, max_num_seqs: int, tokens_per_s: float
    ) -> None:
        self._info = ModelInfo(name, "deterministic-1", max_model_len, max_num_seqs)
        self._step_s = 1 / tokens_per_s if tokens_per_s else 0.0
        self._running: set[str] = set()
        self._dead = False

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def running(self) -> frozenset[str]:
        """Requests that hold a place right now."""
        return frozenset(self._running)

    def load(self) -> EngineLoad:
        return EngineLoad(waiting=0, kv_cache_usage=len(self._running) / self._info.max_num_seqs)

    async def encode_chat(self, messages: tuple[Message, ...]) -> list[int]:
        return await self.encode_text(
            "".join(f"<{turn.role}>{turn.content}" for turn in messages) + "<assistant>"
        )

    async def encode_text(self, text: str) -> list[int]:
        return list(text.encode())

    @asynccontextmanager
    async def generate(
        self, request_id: str, prompt_token_ids: list[int], sampling: Sampling, max_tokens: int
    ) -> AsyncIterator[Generation]:
        if self._dead:
            raise EngineDead("the deterministic engine was told to die")
        if any(token_id > 255 for token_id in prompt_token_ids):
            raise EngineRefused("a prompt token id is out of the vocabulary", param="prompt")
        if sampling.response_format is not None:
            raise EngineRefused(
                "the deterministic engine follows no response format", param="response_format"
            )
        self._running.add(request_id)
        try:
            yield _Run(self, prompt_token_ids, sampling, max_tokens)
        finally:
            self._running.discard(request_id)

    async def check_health(self) -> None:
        if self._dead:
            raise EngineDead("the deterministic engine was told to die")

    def die(self) -> None:
        """From now on every request raises EngineDead."""
        self._dead = True

    async def step(self) -> None:
        """Wait for the next token's turn."""
        await asyncio.sleep(self._step_s)
        await self.check_health()


class _Run:
    def __init__(
        self,
        engine: DeterministicEngine,
        prompt_token_ids: list[int],
        sampling: Sampling,
        max_tokens: int,
    ) -> None:
        self._engine = engine
        self._prompt_token_ids = prompt_token_ids
        self._sampling = sampling
        self._max_tokens = max_tokens

    async def chunks(self) -> AsyncIterator[Chunk]:
        prompt = bytes(self._prompt_token_ids)
        if b"[engine-fault]" in prompt:
            raise EngineFailed("the engine failed while it ran this request")
        if b"[engine-death]" in prompt:
            self._engine.die()
        own_length = DEFAULT_ANSWER_TOKENS
        if self._sampling.max_tokens is not None or self._sampling.ignore_eos:
            own_length = self._max_tokens
        length = min(own_length, self._max_tokens)
        text, sent = "", 0
        for i, token_id in enumerate(answer_token_ids(self._prompt_token_ids, length), 1):
            await self._engine.step()
            text += token_text(token_id)
            matched = next((stop for stop in self._sampling.stop if stop in text), None)
            if matched is not None:
                yield Chunk((token_id,), text[sent : text.index(matched)], "stop", matched)
                return
            done = i == length
            reason = ("length" if length == self._max_tokens else "stop") if done else None
            end = len(text) if done else len(text) - _held_back(text, self._sampling.stop)
            yield Chunk((token_id,), text[sent:end], reason)
            sent = end


def _held_back(text: str, stops: tuple[str, ...]) -> int:
    """How many characters at the end may be the beginning of a stop string."""
    return max(
        (
            length
            for stop in stops
            for length in range(1, min(len(stop), len(text) + 1))
            if text.endswith(stop[:length])
        ),
        default=0,
    )
