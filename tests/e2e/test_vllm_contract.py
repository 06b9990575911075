"""vLLM keeps the contract of engines. One engine serves all of the file, whose last test kills it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from relais_common.jobs.chat import Chat, Message
from relais_common.jobs.errors import NotResumable
from relais_common.jobs.job import Sampling
from relais_llm_worker.app import open_engines
from relais_llm_worker.continuation import obstacle
from relais_llm_worker.engine import NOTHING, Chunk, Emitted, Engine
from relais_llm_worker.settings import read_settings
from relais_testing.contracts.engine import EngineContract
from relais_testing.process_stack import VLLM_ON_CPU

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Its own warnings, at import and load.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vllm() -> AsyncIterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VLLM_ON_CPU.items():
            patch.setenv(name, value)
        async with open_engines(read_settings(VLLM_ON_CPU).engine, CollectorRegistry()) as engines:
            yield engines[0]


SCHEMA = {
    "type": "object",
    "properties": {
        "marks": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 6, "maxItems": 6},
        "name": {"type": "string", "maxLength": 12},
    },
    "required": ["marks", "name"],
    "additionalProperties": False,
}
GREEDY = Sampling(temperature=0.0, ignore_eos=True)
TOKENS = 60
STATEFUL = {
    "json": replace(GREEDY, ignore_eos=False, structured_outputs={"json": SCHEMA}),
    "schema": Sampling(
        temperature=0.0,
        min_tokens=20,
        logprobs=2,
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
    ),
    "regex": replace(GREEDY, ignore_eos=False, structured_outputs={"regex": "[a-z ]{80,90}"}),
    "penalties": replace(GREEDY, presence_penalty=1.5, frequency_penalty=0.3),
    "all penalties": replace(GREEDY, frequency_penalty=-1.0, repetition_penalty=1.3),
    "seed": replace(GREEDY, seed=5, temperature=1.3, top_p=0.9),
    "seed and schema": Sampling(seed=5, temperature=1.3, structured_outputs={"json": SCHEMA}),
}


async def _prompt(engine: Engine) -> list[int]:
    encoded = await engine.encode_chat("a-key", Chat((Message("user", "Merci beaucoup."),)))
    return encoded.token_ids


async def _said(engine: Engine, sampling: Sampling, begun: Emitted = NOTHING) -> list[Chunk]:
    prompt = await _prompt(engine)
    async with engine.generate("a-request", prompt, sampling, TOKENS, begun) as generation:
        return [chunk async for chunk in generation.chunks()]


def _ids(chunks: list[Chunk]) -> list[int]:
    return [token_id for chunk in chunks for token_id in chunk.token_ids]


async def _emitted(engine: Engine, token_ids: list[int]) -> Emitted:
    """What was published of these tokens, one at a time."""
    text_of: Callable[[int], str] = cast("Any", engine)._decoder("", await _prompt(engine), True)
    text = "".join(map(text_of, token_ids))
    return Emitted(tuple(token_ids), text)


async def _check_cuts(engine: Engine, sampling: Sampling, *cuts: int) -> None:
    """Cut the answer after so many tokens: chunks have several where the engine is ahead of its reader."""
    whole = await _said(engine, sampling)
    token_ids = _ids(whole)
    assert len(token_ids) > 10
    logprobs = [one for chunk in whole for one in chunk.logprobs or ()]
    for cut in cuts or (1, len(token_ids) // 2, len(token_ids) - 1):
        begun = await _emitted(engine, token_ids[:cut])
        rest = await _said(engine, sampling, begun)
        assert [*begun.token_ids, *_ids(rest)] == token_ids
        assert begun.text + "".join(chunk.text for chunk in rest) == "".join(
            chunk.text for chunk in whole
        )
        assert rest[-1].finish_reason == whole[-1].finish_reason
        told = logprobs[cut:]
        again = [one for chunk in rest for one in chunk.logprobs or ()]
        assert [one.token for one in again] == [one.token for one in told]
        assert [one.logprob for one in again] == pytest.approx([one.logprob for one in told])


@pytest.mark.parametrize("sampling", STATEFUL.values(), ids=STATEFUL)
async def test_what_depends_on_earlier_steps_goes_on_to_the_letter(
    vllm: Engine, sampling: Sampling
) -> None:
    assert vllm.info.forces_tokens
    assert obstacle(sampling) is not None
    await _check_cuts(vllm, sampling)


async def test_tokens_that_nobody_waits_for_come_together_and_are_the_same(vllm: Engine) -> None:
    sampling, prompt = replace(GREEDY, logprobs=1), await _prompt(vllm)
    whole = await _said(vllm, sampling)
    async with vllm.generate(
        "a-request", prompt, sampling, TOKENS, tokens_at_once=16
    ) as generation:
        chunks = [chunk async for chunk in generation.chunks()]
    assert [len(chunk.token_ids) for chunk in chunks] == [1, 16, 16, 16, TOKENS - 49]
    assert _ids(chunks) == _ids(whole)
    assert "".join(chunk.text for chunk in chunks) == "".join(chunk.text for chunk in whole)
    told = [one for chunk in chunks for one in chunk.logprobs or ()]
    assert [one.token for one in told] == [
        one.token for chunk in whole for one in chunk.logprobs or ()
    ]


async def test_bad_words_are_found_across_the_cut(vllm: Engine) -> None:
    token_ids = _ids(await _said(vllm, GREEDY))
    for first, second in pairwise(token_ids):
        word = await vllm.decode("a-key", [first, second])
        if word == word.strip() and await vllm.encode_text("a-key", word) == [first, second]:
            break
    else:
        pytest.fail("none of its words is of two tokens")
    sampling = replace(GREEDY, bad_words=(word,))
    token_ids = _ids(await _said(vllm, sampling))
    assert (first, second) not in set(pairwise(token_ids))
    cuts = [cut for cut, token_id in enumerate(token_ids[:-1], 1) if token_id == first]
    assert cuts, "it was about to be said"
    await _check_cuts(vllm, sampling, *cuts)


async def test_tokens_that_the_engine_would_not_make_are_not_gone_on_from(vllm: Engine) -> None:
    """As after a change of the grammar's settings: no JSON begins like this."""
    strange = await vllm.encode_text("a-key", "Bonjour")
    text = await vllm.decode("a-key", strange)
    with pytest.raises(NotResumable):
        await _said(vllm, STATEFUL["json"], Emitted(tuple(strange), text))
    await _said(vllm, STATEFUL["json"])


class TestVllm(EngineContract):
    @pytest.fixture
    def engine(self, vllm: Engine) -> Engine:
        return vllm
