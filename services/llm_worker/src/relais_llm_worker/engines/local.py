"""A model that runs on an engine in this process. Prompts are tokenised here, and bounds apply to tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from relais_common.jobs.chat import images_of
from relais_common.jobs.errors import EngineRefused, EngineStuck, NotResumable, images_refused
from relais_common.jobs.job import MOST_PROMPT_LOGPROBS, Job, Priority, PromptOptions
from relais_common.worker.status import ModelStatus
from relais_llm_worker.continuation import obstacle, require_resumable
from relais_llm_worker.engine import NOTHING, Chunk, EncodedChat, Engine, exceeds_context
from relais_llm_worker.engines.places import Places
from relais_llm_worker.engines.stall import StallWatch
from relais_llm_worker.model import Answer, Cut, Tokens

log = structlog.get_logger(__name__)

LINE_TOKENS_AT_ONCE = 16
"""Of a batch's line, which nobody reads meanwhile: what an engine made since the last ones is made again elsewhere."""


class LocalModel:
    """Turns jobs into prompts, within the bounds of the model and the deployment.

    The owner calls `check_health` about once a second.

    Args:
        places, stalls: shared by the models of one engine.
        max_output_tokens: the most output tokens of one request.
        kv_cache_threshold: KV cache usage above which no further job is taken.
    """

    def __init__(
        self,
        engine: Engine,
        places: Places,
        stalls: StallWatch,
        *,
        max_output_tokens: int,
        kv_cache_threshold: float,
    ) -> None:
        self._engine = engine
        self._places = places
        self._stalls = stalls
        self._max_output_tokens = max_output_tokens
        self._kv_cache_threshold = kv_cache_threshold

    @property
    def name(self) -> str:
        return self._engine.info.name

    def room(self, held: int) -> int:
        """Return the free places in the running batch; none while the engine has its own queue."""
        load = self._engine.load()
        # An idle engine reports nothing new, so its last report may be out of date.
        busy = held or self._places.used_by_others(self.name)
        if busy and (
            self._stalls.is_worrying
            or load.waiting > 0
            or load.kv_cache_usage >= self._kv_cache_threshold
        ):
            return 0
        return self._places.room(self.name, held)

    def status(self) -> ModelStatus:
        return ModelStatus(
            capacity=self._engine.info.max_num_seqs - self._places.used_by_others(self.name),
            max_model_len=self._engine.info.max_model_len,
            kv_cache_usage=round(self._engine.load().kv_cache_usage, 4),
            not_ready="the engine makes no step" if self._stalls.is_worrying else None,
            parent=self._engine.info.parent,
            supports_images=self._engine.info.supports_images,
        )

    def can_continue(self, job: Job) -> bool:
        return obstacle(self._engine.settled(job.sampling), job.chat) is None

    @asynccontextmanager
    async def answer(self, job: Job, cut: Cut | None = None) -> AsyncIterator[Answer]:
        with self._places.running(self.name):
            async with self._answer(job, cut) as answer:
                yield answer

    @asynccontextmanager
    async def _answer(self, job: Job, cut: Cut | None) -> AsyncIterator[Answer]:
        revision = self._engine.info.revision
        chat = job.conversation
        sampling = self._engine.settled(job.sampling, chat)
        if cut is None:
            encoded, emitted = await self._encode(job), NOTHING
        else:
            forces_tokens = self._engine.info.forces_tokens
            require_resumable(cut, {revision}, sampling, forces_tokens=forces_tokens)
            encoded, emitted = EncodedChat(list(cut.prompt_token_ids)), cut.emitted
            if job.images:
                encoded = await self._encode(job)
                if encoded.token_ids != list(cut.prompt_token_ids):
                    raise NotResumable("its images give another prompt here")
        prompt = encoded.token_ids
        max_tokens = self._max_tokens(job, len(prompt))
        prompt_logprobs = job.prompt_logprobs if emitted == NOTHING else None
        _check_prompt_logprobs(prompt_logprobs, len(prompt))
        # The bounds of the deployment that began it may have allowed more.
        if len(emitted.token_ids) >= max_tokens:
            yield Answer(prompt, revision, _ended())
            return
        structured = bool(sampling.response_format or sampling.structured_outputs)
        if structured:
            # What the request did not ask for comes from its tools.
            of_tools = sampling.structured_outputs != job.sampling.structured_outputs
            await self._engine.check_structure(
                sampling, key_id=job.key_id, param="tools" if of_tools else None
            )
        # A stop string is found in what has come, and the engine goes on until then.
        is_line = job.priority is Priority.BATCH and not sampling.stop
        with self._stalls.running(job.channel_id, structured=structured):
            request_id = f"{job.channel_id}#{job.index}" if job.index else job.channel_id
            async with self._engine.generate(
                request_id,
                prompt,
                sampling,
                max_tokens,
                emitted,
                chat,
                prompt_logprobs,
                encoded.media,
                tokens_at_once=LINE_TOKENS_AT_ONCE if is_line else 1,
            ) as generation:
                yield Answer(prompt, revision, generation.chunks())

    async def tokenize(self, job: Job) -> Tokens:
        ids = (await self._encode(job)).token_ids
        told = job.prompting.echo
        return Tokens(ids, await self._engine.token_texts(job.key_id, ids) if told else None)

    async def detokenize(self, job: Job) -> str:
        token_ids = job.prompt if isinstance(job.prompt, tuple) else ()
        # As many as there may be of a prompt: more cost more than any request should.
        limit = self._engine.info.max_model_len
        if len(token_ids) > limit:
            raise exceeds_context(limit, "tokens", f"{len(token_ids)} tokens")
        return await self._engine.decode(job.key_id, token_ids)

    async def check_health(self) -> None:
        """Check the engine as `Engine.check_health` does, and kill it if it makes no step.

        Raises:
            EngineStuck: the engine was killed because it made no step.
        """
        await self._engine.check_health()
        suspects = self._stalls.look(self._engine.load().steps)
        if suspects:
            log.error(
                "engine_stalled", quiet_s=round(self._stalls.quiet_s), suspects=sorted(suspects)
            )
            self._engine.kill()
            raise EngineStuck(suspects)

    async def _encode(self, job: Job) -> EncodedChat:
        keep, special = self._kept(job.prompting), job.prompting.add_special_tokens
        if (chat := job.conversation) is not None:
            if (image := next(images_of(chat.messages), None)) is not None:
                if not self._engine.info.supports_images:
                    raise images_refused(self.name, image[0])
                if keep is not None:
                    raise EngineRefused(
                        "truncate_prompt_tokens: cannot be combined with images",
                        param="truncate_prompt_tokens",
                        code="unsupported_parameter",
                    )
            encoded = await self._engine.encode_chat(
                job.key_id, chat, add_special_tokens=special is True, keep=keep
            )
            if keep is None:
                return encoded
            ids = encoded.token_ids
        elif isinstance(job.prompt, str):
            ids = await self._engine.encode_text(
                job.key_id, job.prompt, add_special_tokens=special is not False, keep=keep
            )
        else:
            ids = list(job.prompt or ())
        return EncodedChat(ids if keep is None else ids[max(0, len(ids) - keep) :])

    def _kept(self, prompting: PromptOptions) -> int | None:
        """Return how many tokens a prompt keeps, at most; None for all."""
        keep, limit = prompting.truncate_prompt_tokens, self._engine.info.max_model_len
        if keep is None:
            return None
        if keep > limit:
            raise EngineRefused(
                f"truncate_prompt_tokens: this model's maximum context length is {limit} tokens",
                param="truncate_prompt_tokens",
                code="invalid_value",
            )
        return limit - 1 if keep < 0 else keep

    def _max_tokens(self, job: Job, prompt_tokens: int) -> int:
        """Return the requested number, limited to what the model and this deployment allow."""
        limit = self._engine.info.max_model_len
        param = "messages" if job.messages is not None else "prompt"
        if prompt_tokens == 0:
            raise EngineRefused("the prompt is empty", param=param, code="invalid_value")
        if prompt_tokens >= limit:
            raise exceeds_context(limit, param, f"{prompt_tokens} tokens")
        asked = job.sampling.max_tokens
        room = limit - prompt_tokens
        # What is left of a prompt that was cut to fit can be foreseen by nobody: as in vLLM, the answer is cut too.
        adapts = job.sampling.adapts_bounds or job.prompting.truncate_prompt_tokens is not None
        if asked is not None and asked > room and not adapts:
            raise EngineRefused(
                f"This model's maximum context length is {limit} tokens, prompt and answer together."
                f" You asked for {prompt_tokens} prompt tokens and max_tokens {asked}.",
                param="max_tokens",
                code="context_length_exceeded",
            )
        return min(asked or room, self._max_output_tokens, room)


def models_of(
    engines: Sequence[Engine],
    *,
    max_output_tokens: int,
    kv_cache_threshold: float,
    stall_s: float = 120.0,
) -> list[LocalModel]:
    """Return the models of one engine, which appears once for each: they share its places.

    Args:
        stall_s: how long the engine may make no step while it has requests.
    """
    places = Places([one.info.name for one in engines], engines[0].info.max_num_seqs)
    stalls = StallWatch(stall_s)
    return [
        LocalModel(
            one,
            places,
            stalls,
            max_output_tokens=max_output_tokens,
            kv_cache_threshold=kv_cache_threshold,
        )
        for one in engines
    ]


def _check_prompt_logprobs(count: int | None, prompt_tokens: int) -> None:
    """Raise EngineRefused if more would be told of a prompt than a log can hold."""
    if count is not None and prompt_tokens * (count + 1) > MOST_PROMPT_LOGPROBS:
        raise EngineRefused(
            f"prompt_logprobs: {prompt_tokens} tokens with {count} candidates each are more than "
            f"{MOST_PROMPT_LOGPROBS} log probabilities",
            param="prompt_logprobs",
            code="invalid_value",
        )


async def _ended() -> AsyncIterator[Chunk]:
    yield Chunk((), "", "length")
