"""What every `Engine` does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relais_common.jobs.chat import Chat, Message
from relais_common.jobs.errors import EngineDead, EngineRefused
from relais_common.jobs.job import Sampling
from relais_llm_worker.engine import NOTHING, Chunk, Emitted, Engine
from relais_testing.waiting import wait_until

TOKENS = 12
GREEDY = Sampling(temperature=0.0, ignore_eos=True, max_tokens=TOKENS)
"""Greedy, and of a length that does not depend on what the model says."""
KEY = "a-key"


async def _prompt(engine: Engine, text: str = "hello") -> list[int]:
    return await engine.encode_text(KEY, text)


async def _run(
    engine: Engine, sampling: Sampling = GREEDY, emitted: Emitted = NOTHING
) -> list[Chunk]:
    prompt = await _prompt(engine)
    async with engine.generate("a-request", prompt, sampling, TOKENS, emitted) as generation:
        return [chunk async for chunk in generation.chunks()]


def _ids(chunks: list[Chunk]) -> list[int]:
    return [token_id for chunk in chunks for token_id in chunk.token_ids]


def _text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


class EngineContract:
    """Subclass it as `Test...`, with a fixture `engine`. The last test kills the engine."""

    def test_it_says_what_it_runs_and_that_it_is_idle(self, engine: Engine) -> None:
        assert engine.info.name
        assert engine.info.revision
        assert engine.info.max_model_len > TOKENS
        assert engine.info.max_num_seqs >= 1
        assert engine.load().waiting == 0
        assert 0 <= engine.load().kv_cache_usage < 1

    async def test_prompts_become_token_ids(self, engine: Engine) -> None:
        turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
        assert await _prompt(engine) == await _prompt(engine) != await _prompt(engine, "other")
        first = (await engine.encode_chat(KEY, Chat(turns[:1]))).token_ids
        assert (await engine.encode_chat(KEY, Chat(turns))).token_ids != first

    async def test_token_ids_become_the_text_that_they_were(self, engine: Engine) -> None:
        text = await engine.decode(KEY, await _prompt(engine, "hello"))
        assert text.endswith("hello")
        with pytest.raises(EngineRefused) as unknown:
            await engine.decode(KEY, [10_000_000])
        assert unknown.value.param == "tokens"

    async def test_prompt_far_over_the_context_is_refused(self, engine: Engine) -> None:
        text = "word " * (20 * engine.info.max_model_len)
        with pytest.raises(EngineRefused) as plain:
            await _prompt(engine, text)
        with pytest.raises(EngineRefused) as chat:
            await engine.encode_chat(KEY, Chat((Message("user", text),)))
        assert (plain.value.param, chat.value.param) == ("prompt", "messages")
        assert plain.value.code == chat.value.code == "context_length_exceeded"

    async def test_token_that_the_model_lacks_is_refused(self, engine: Engine) -> None:
        with pytest.raises(EngineRefused):
            async with engine.generate("a-request", [10_000_000], GREEDY, TOKENS):
                pass

    def test_settled_parameters_are_the_request_s_own_and_stay_settled(
        self, engine: Engine
    ) -> None:
        asked = Sampling(temperature=0.5, top_p=0.25)
        settled = engine.settled(asked)
        assert (settled.temperature, settled.top_p) == (0.5, 0.25)
        assert engine.settled(settled) == settled

    async def test_only_the_last_chunk_says_why_the_answer_ends(self, engine: Engine) -> None:
        chunks = await _run(engine)
        assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].finish_reason == "length"
        assert len(_ids(chunks)) == TOKENS
        assert _text(chunks)

    async def test_greedy_answers_are_the_same_each_time(self, engine: Engine) -> None:
        first, second = await _run(engine), await _run(engine)
        assert (_ids(first), _text(first)) == (_ids(second), _text(second))

    @pytest.mark.parametrize("count", [1, TOKENS // 2, TOKENS - 1])
    async def test_cut_answer_goes_on_to_the_letter(self, engine: Engine, count: int) -> None:
        whole = await _run(engine)
        # Ids go out with text that may lag behind them: a step at a time, as a worker publishes them.
        # A step has several tokens where the engine was ahead of its reader; the last one ends the answer.
        begun = Emitted()
        for step in whole[:-1]:
            if len(begun.token_ids) >= count:
                break
            begun = Emitted((*begun.token_ids, *step.token_ids), begun.text + step.text)
        rest = await _run(engine, emitted=begun)
        assert [*begun.token_ids, *_ids(rest)] == _ids(whole)
        assert begun.text + _text(rest) == _text(whole)

    async def test_stop_string_ends_the_answer_before_it(self, engine: Engine) -> None:
        whole = _text(await _run(engine))
        stop = whole[len(whole) // 2 :][:3]
        chunks = await _run(engine, replace(GREEDY, stop=(stop,)))
        assert _text(chunks) == whole.partition(stop)[0]
        assert (chunks[-1].finish_reason, chunks[-1].stop_reason) == ("stop", stop)

    async def test_every_token_has_its_probability(self, engine: Engine) -> None:
        chunks = await _run(engine, replace(GREEDY, logprobs=2))
        assert all(len(chunk.logprobs or ()) == len(chunk.token_ids) for chunk in chunks)
        probabilities = [one for chunk in chunks for one in chunk.logprobs or ()]
        assert len(probabilities) == TOKENS
        assert all(one.logprob <= 0 and len(one.top_logprobs) == 2 for one in probabilities)

    async def test_request_that_is_left_makes_no_more_steps(self, engine: Engine) -> None:
        prompt = await _prompt(engine)
        endless = replace(GREEDY, max_tokens=engine.info.max_model_len - len(prompt) - 1)
        assert endless.max_tokens is not None
        async with engine.generate("left", prompt, endless, endless.max_tokens) as generation:
            await anext(aiter(generation.chunks()))
        # Its name is free again, and so is its place.
        await _run(engine)
        await wait_until(lambda: engine.load().waiting == 0)
        async with engine.generate("left", prompt, GREEDY, TOKENS) as generation:
            assert len(_ids([chunk async for chunk in generation.chunks()])) == TOKENS
        await engine.check_health()

    async def test_killed_engine_runs_nothing_more(self, engine: Engine) -> None:
        engine.kill()
        with pytest.raises(EngineDead):
            await _run(engine)
        with pytest.raises(EngineDead):
            await engine.check_health()
