"""The engine whose every token follows from the prompt."""

from __future__ import annotations

import pytest

from relais_common.jobs.chat import Chat, Message
from relais_common.jobs.errors import EngineDead, EngineFailed, EngineRefused
from relais_common.jobs.events import RankedToken
from relais_common.jobs.job import Sampling
from relais_llm_worker.engine import Chunk
from relais_llm_worker.engines.engine_deterministic import (
    DEFAULT_ANSWER_TOKENS,
    DeterministicEngine,
    answer_text,
    answer_token_ids,
    said_text,
)

PROMPT = list(b"prompt")


def make_engine() -> DeterministicEngine:
    return DeterministicEngine("m", max_model_len=4096, max_num_seqs=4, tokens_per_s=0)


async def run(
    engine: DeterministicEngine,
    prompt: list[int] = PROMPT,
    sampling: Sampling | None = None,
    max_tokens: int = 4000,
) -> list[Chunk]:
    sampling = Sampling() if sampling is None else sampling
    async with engine.generate("id", prompt, sampling, max_tokens) as generation:
        return [chunk async for chunk in generation.chunks()]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_two_engines_give_one_answer() -> None:
    first, second = await run(make_engine()), await run(make_engine())
    assert first == second
    assert first != await run(make_engine(), list(b"another"))


async def test_answer_is_what_its_token_ids_say() -> None:
    chunks = await run(make_engine())
    ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
    assert ids == list(answer_token_ids(PROMPT, DEFAULT_ANSWER_TOKENS))
    assert text_of(chunks) == answer_text(PROMPT, DEFAULT_ANSWER_TOKENS)


async def test_longer_answer_begins_like_a_shorter_one() -> None:
    long = await run(make_engine(), sampling=Sampling(max_tokens=50), max_tokens=50)
    assert list(answer_token_ids(PROMPT, 50))[:10] == list(answer_token_ids(PROMPT, 10))
    assert len(long) == 50


@pytest.mark.parametrize(
    ("sampling", "max_tokens", "length", "reason"),
    [
        (Sampling(), 4000, DEFAULT_ANSWER_TOKENS, "stop"),
        (Sampling(), 10, 10, "length"),
        (Sampling(max_tokens=100), 100, 100, "length"),
        (Sampling(ignore_eos=True), 77, 77, "length"),
        (Sampling(max_tokens=1), 1, 1, "length"),
    ],
)
async def test_only_the_last_chunk_says_why_it_ends(
    sampling: Sampling, max_tokens: int, length: int, reason: str
) -> None:
    chunks = await run(make_engine(), sampling=sampling, max_tokens=max_tokens)
    assert [chunk.finish_reason for chunk in chunks] == [None] * (length - 1) + [reason]


async def whole() -> str:
    return text_of(await run(make_engine()))


async def test_stop_string_ends_the_answer_before_it() -> None:
    stop = (await whole()).split(" ")[5]
    chunks = await run(make_engine(), sampling=Sampling(stop=(stop,)))
    assert text_of(chunks) == (await whole()).partition(stop)[0]
    assert (chunks[-1].finish_reason, chunks[-1].stop_reason) == ("stop", stop)


@pytest.mark.parametrize("span", [(3, 9), (0, 1), (10, 40), (17, 18)])
async def test_no_part_of_a_stop_string_across_tokens_gets_out(span: tuple[int, int]) -> None:
    stop = (await whole())[slice(*span)]
    chunks = await run(make_engine(), sampling=Sampling(stop=("never", stop)))
    assert text_of(chunks) == (await whole()).partition(stop)[0]
    assert chunks[-1].stop_reason == stop


async def test_a_stop_that_is_to_be_kept_is_the_end_of_the_text() -> None:
    text = await whole()
    chunks = await run(
        make_engine(), sampling=Sampling(stop=(text[17:30],), include_stop_str_in_output=True)
    )
    assert text_of(chunks) == text[:30]
    assert chunks[-1].stop_reason == text[17:30]


async def test_a_stop_token_ends_the_answer_and_is_counted() -> None:
    ids = list(answer_token_ids(PROMPT, 10))
    chunks = await run(make_engine(), sampling=Sampling(stop_token_ids=(ids[9], 70_000)))
    assert (len(chunks), text_of(chunks)) == (10, answer_text(PROMPT, 9))
    assert (chunks[-1].finish_reason, chunks[-1].stop_reason) == ("stop", ids[9])
    kept = Sampling(stop_token_ids=(ids[9],), include_stop_str_in_output=True)
    chunks = await run(make_engine(), sampling=kept)
    assert text_of(chunks) == answer_text(PROMPT, 10)
    assert chunks[-1].stop_reason == ids[9]
    later = Sampling(stop_token_ids=(ids[9],), min_tokens=10)
    assert len(await run(make_engine(), sampling=later)) > 10


async def test_text_held_back_for_a_stop_string_that_does_not_come_is_given_in_the_end() -> None:
    text = await whole()
    chunks = await run(make_engine(), sampling=Sampling(stop=(text[-4:] + "!",)))
    assert text_of(chunks) == text
    assert chunks[-1].stop_reason is None


async def test_every_token_says_what_was_asked_of_it_also_while_text_is_held_back() -> None:
    text = await whole()
    stop = text[30:60]
    chunks = await run(make_engine(), sampling=Sampling(logprobs=2, stop=(stop,)))
    told = [one for chunk in chunks for one in chunk.logprobs or ()]
    assert [len(chunk.logprobs or ()) for chunk in chunks] == [1] * len(chunks)
    assert text.startswith("".join(one.token for one in told))
    assert text_of(chunks) == text[:30]
    for one in told:
        assert one.top_logprobs[0] == RankedToken(one.token, one.logprob)
        assert [top.logprob for top in one.top_logprobs] == [one.logprob, one.logprob - 1]
    (bare, *_) = await run(make_engine(), sampling=Sampling(logprobs=0))
    assert bare.logprobs is not None
    assert bare.logprobs[0].top_logprobs == ()
    (silent, *_) = await run(make_engine())
    assert silent.logprobs is None


async def test_faulty_prompt_fails_alone() -> None:
    engine = make_engine()
    with pytest.raises(EngineFailed):
        await run(engine, list(b"a [engine-fault] b"))
    assert await run(engine)
    await engine.check_health()


async def test_deadly_prompt_takes_the_engine_with_it() -> None:
    engine = make_engine()
    with pytest.raises(EngineDead):
        await run(engine, list(b"a [engine-death] b"))
    with pytest.raises(EngineDead):
        await run(engine)
    with pytest.raises(EngineDead):
        await engine.check_health()


async def test_wrong_requests_are_refused_by_field() -> None:
    with pytest.raises(EngineRefused) as vocabulary:
        await run(make_engine(), [256])
    assert vocabulary.value.param == "prompt"
    with pytest.raises(EngineRefused) as unsupported:
        sampling = Sampling(response_format={"type": "json_object"})
        await make_engine().check_structure(sampling, key_id="key")
    assert unsupported.value.param == "response_format"


async def test_place_is_held_while_the_request_runs_and_no_longer() -> None:
    engine = make_engine()
    async with engine.generate("one", PROMPT, Sampling(), 10) as generation:
        assert engine.running == {"one"}
        await anext(generation.chunks())
    assert engine.running == frozenset()
    with pytest.raises(EngineFailed):
        await run(engine, list(b"[engine-fault]"))
    assert engine.running == frozenset()


async def test_conversations_differ_by_role_and_turn() -> None:
    engine = make_engine()
    user, system = Message("user", "a"), Message("system", "a")
    conversations = [Chat((user,)), Chat((system,)), Chat((user, user))]
    one, two, three = [
        (await engine.encode_chat("a-key", chat)).token_ids for chat in conversations
    ]
    assert len({tuple(ids) for ids in (one, two, three)}) == 3
    assert await engine.encode_text("a-key", "é") == list("é".encode())


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (b"say", None),
        (b"[say]a[/say] [say]b[/say]", b"b"),
        (b"[say]a[say]b[/say]c[/say]", b"a[say]b"),
        (b"[say]a[/say][say]b", b"a"),
        # Minutes if every beginning were followed to the end of the prompt.
        (b"[say]" * 200_000, None),
    ],
    ids=["none", "the last", "nested", "open", "many"],
)
def test_prompt_says_what_the_answer_is(prompt: bytes, said: bytes | None) -> None:
    assert said_text(list(prompt), None) == said
