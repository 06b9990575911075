"""What every `Model` does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relais_common.jobs.chat import Message
from relais_common.jobs.errors import NotResumable
from relais_common.jobs.job import Job, PromptOptions, Sampling
from relais_llm_worker.engine import Emitted
from relais_llm_worker.model import Cut, Model
from relais_testing.builders import make_job
from relais_testing.remote import say

GREEDY = Sampling(temperature=0.0, max_tokens=8)
CHAT = make_job(messages=(Message("user", "hello"),), sampling=GREEDY)
TEXT = make_job(prompt="hello", sampling=GREEDY)


class ModelContract:
    """Subclass it as `Test...`, with a fixture `model`: one that has room and can go on with greedy answers."""

    async def test_it_has_a_name_and_as_much_room_as_it_says(self, model: Model) -> None:
        assert model.name
        capacity = model.status().capacity
        assert capacity >= 1
        assert model.status().not_ready is None
        assert [model.room(held) for held in range(capacity + 1)] == list(range(capacity, -1, -1))

    @pytest.mark.parametrize("job", [CHAT, TEXT], ids=["chat", "text"])
    async def test_only_the_last_chunk_says_why_the_answer_ends(
        self, model: Model, job: Job
    ) -> None:
        said = await say(model, job)
        assert said.text
        assert {chunk.finish_reason for chunk in said.chunks[:-1]} <= {None}
        assert said.last.finish_reason == "length"
        assert said.revision

    @pytest.mark.parametrize("job", [CHAT, TEXT], ids=["chat", "text"])
    async def test_its_prompts_are_told_without_an_answer(self, model: Model, job: Job) -> None:
        plain = await model.tokenize(job)
        assert plain.tokens
        assert plain.token_strs is None
        assert await model.detokenize(make_job(prompt=tuple(plain.tokens)))
        told = await model.tokenize(replace(job, prompting=PromptOptions(echo=True)))
        assert told.tokens == plain.tokens
        assert told.token_strs is not None
        assert len(told.token_strs) == len(told.tokens)

    async def test_whoever_waits_for_chunks_has_the_prompt_already(self, model: Model) -> None:
        async with model.answer(CHAT) as answer:
            assert answer.prompt_token_ids
            assert answer.model_revision

    @pytest.mark.parametrize("count", [1, 4, 7])
    async def test_cut_answer_goes_on_to_the_letter(self, model: Model, count: int) -> None:
        assert model.can_continue(CHAT)
        whole = await say(model, CHAT)
        emitted, steps = Emitted(), iter(whole.chunks)
        while len(emitted.token_ids) < count:
            step = next(steps)
            emitted = Emitted((*emitted.token_ids, *step.token_ids), emitted.text + step.text)
        rest = await say(model, CHAT, Cut(whole.prompt_token_ids, whole.revision, emitted))
        assert [*emitted.token_ids, *rest.token_ids] == whole.token_ids
        assert emitted.text + rest.text == whole.text

    async def test_answer_of_other_weights_is_not_gone_on_with(self, model: Model) -> None:
        whole = await say(model, CHAT)
        first = whole.chunks[0]
        cut = Cut(whole.prompt_token_ids, "other-weights", Emitted(first.token_ids, first.text))
        with pytest.raises(NotResumable):
            await say(model, CHAT, cut)

    def test_seed_cannot_be_gone_on_with(self, model: Model) -> None:
        assert not model.can_continue(replace(CHAT, sampling=Sampling(seed=1, temperature=1.0)))

    async def test_answer_that_is_left_frees_its_place(self, model: Model) -> None:
        # One more than there are places: a place that stayed taken would be missed.
        for _ in range(model.status().capacity + 1):
            async with model.answer(CHAT) as answer:
                await anext(aiter(answer.chunks))
        assert (await say(model, CHAT)).last.finish_reason == "length"
        await model.check_health()
