"""Answers with reasoning and tool calls: told apart as they come, and gone on with wherever they were cut."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relais_common.jobs.chat import (
    ChatOptions,
    FunctionDelta,
    Message,
    Streamed,
    ToolCallDelta,
    joined,
)
from relais_common.jobs.errors import NotResumable
from relais_common.jobs.job import Job, Sampling
from relais_llm_worker.engine import Chunk
from relais_llm_worker.engines.engine_deterministic import DeterministicEngine
from relais_llm_worker.engines.local import LocalModel, models_of
from relais_llm_worker.model import Cut
from relais_llm_worker.parsed_answer import merged
from relais_testing.builders import make_job
from relais_testing.chunks import emitted, parts
from relais_testing.remote import Said, say

ARGUMENTS = {"city": "Nîmes", "days": [1, {"a": "}"}], "note": "</tool_call >"}
CALL = f'<tool_call>{{"name": "weather", "arguments": {json.dumps(ARGUMENTS)}}}</tool_call>'
OTHER = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
SAID = f"<think>Où est Nîmes ?</think>I look. {CALL}{OTHER}"


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


TOOLS = ChatOptions(tools=(tool("weather"), tool("clock")))


@pytest.fixture
def model() -> LocalModel:
    engine = DeterministicEngine("m", max_model_len=4096, max_num_seqs=4, tokens_per_s=0)
    return models_of([engine], max_output_tokens=1000, kv_cache_threshold=0.95)[0]


def chat(said: str, options: ChatOptions = TOOLS, **sampling: Any) -> Job:
    messages = (Message("user", f"[say]{said}[/say]"),)
    return replace(make_job(messages=messages, sampling=Sampling(**sampling)), chat=options)


def cut(whole: Said, chunks: list[Chunk]) -> Cut:
    return Cut(whole.prompt_token_ids, whole.revision, emitted(chunks))


async def test_content_reasoning_and_calls_are_told_apart_as_they_come(model: LocalModel) -> None:
    said = await say(model, chat(SAID))
    content, reasoning, calls = parts(said.chunks)
    assert (content.rstrip("\n"), reasoning) == ("I look. ", "Où est Nîmes ?")
    assert calls == [("weather", json.dumps(ARGUMENTS)), ("clock", "{}")]
    assert sum(bool(chunk.tool_calls) for chunk in said.chunks) > 5, "they come in pieces"
    message = said.last.message
    assert message is not None
    assert message.reasoning == reasoning
    assert [json.loads(one.function.arguments) for one in message.tool_calls] == [ARGUMENTS, {}]
    assert (said.last.finish_reason, said.last.unreadable) == ("tool_calls", False)
    assert said.last.reasoning_tokens


async def test_a_call_s_id_type_and_name_come_once_and_first(model: LocalModel) -> None:
    said = await say(model, chat(SAID))
    deltas = [delta for chunk in said.chunks for delta in chunk.tool_calls]
    for index, name in enumerate(("weather", "clock")):
        first, *rest = [delta for delta in deltas if delta.index == index]
        assert (first.type, first.function.name, bool(first.id)) == ("function", name, True)
        assert {(one.id, one.type, one.function.name) for one in rest} <= {(None, None, None)}


async def test_cut_anywhere_it_goes_on_to_the_letter_under_the_same_ids(model: LocalModel) -> None:
    job = chat(SAID)
    whole = await say(model, job)
    for count in range(1, len(whole.chunks)):
        begun = whole.chunks[:count]
        rest = await say(model, job, cut(whole, begun))
        together = [*begun, *rest.chunks]
        assert parts(together) == parts(whole.chunks), count
        assert rest.last.message == whole.last.message
        assert rest.last.finish_reason == "tool_calls"
        assert rest.last.reasoning_tokens == whole.last.reasoning_tokens


async def test_a_call_that_went_out_otherwise_is_not_gone_on_with(model: LocalModel) -> None:
    whole = await say(model, chat(SAID))
    begun = cut(whole, whole.chunks[:-1])
    other = joined(())
    with pytest.raises(NotResumable):
        await say(
            model, chat(SAID), replace(begun, emitted=replace(begun.emitted, tool_calls=other))
        )


@pytest.mark.parametrize(
    "garbled", ['<tool_call>{"name": "weather", "argum', "<tool_call>hm</tool_call>"]
)
async def test_what_is_no_call_is_text_in_the_whole_and_counted(
    model: LocalModel, garbled: str
) -> None:
    said = await say(model, chat(f"Well. {garbled}"))
    assert said.last.message == Message("assistant", f"Well. {garbled}")
    assert said.last.unreadable


async def test_without_parallel_calls_only_the_first_is_told(model: LocalModel) -> None:
    said = await say(model, chat(SAID, ChatOptions(TOOLS.tools, parallel_tool_calls=False)))
    assert [name for name, _ in parts(said.chunks)[2]] == ["weather"]
    assert said.last.message is not None
    assert len(said.last.message.tool_calls) == 1


async def test_calls_are_text_where_no_tool_may_be_called(model: LocalModel) -> None:
    said = await say(model, chat(CALL, ChatOptions(TOOLS.tools, "none")))
    assert parts(said.chunks) == (CALL, "", [])
    assert (said.last.message, said.last.finish_reason) == (None, "stop")


@pytest.mark.parametrize(
    ("choice", "called", "reason"),
    [
        ("required", "weather", "tool_calls"),
        ({"type": "function", "function": {"name": "clock"}}, "clock", "stop"),
    ],
)
async def test_a_call_that_is_demanded_comes(
    model: LocalModel, choice: Any, called: str, reason: str
) -> None:
    job = replace(
        make_job(messages=(Message("user", "hello"),)), chat=ChatOptions(TOOLS.tools, choice)
    )
    said = await say(model, job)
    ((name, arguments),) = parts(said.chunks)[2]
    assert (name, said.last.finish_reason) == (called, reason)
    assert json.loads(arguments).keys() == {"words"}
    assert not model.can_continue(job), "a real engine's grammar would have to be told"


async def test_answer_that_is_cut_short_within_its_reasoning_says_so(model: LocalModel) -> None:
    said = await say(model, chat("<think>A long thought.</think>Yes.", max_tokens=3))
    assert said.last.finish_reason == "length"
    assert said.last.message == Message("assistant", reasoning="A long t")
    assert parts(said.chunks)[:2] == ("", "A long t")


async def test_stop_strings_are_looked_for_in_all_that_the_model_writes(model: LocalModel) -> None:
    said = await say(model, chat(SAID, stop=("look",)))
    assert (parts(said.chunks)[0], said.last.finish_reason) == ("I ", "stop")


CALL_BEGINS = ToolCallDelta(0, "call-1", "function", FunctionDelta("weather", ""))


@given(
    st.lists(
        st.sampled_from(
            [
                Chunk((1,), ""),
                Chunk((2,), "a"),
                Chunk((3,), "", reasoning="r"),
                Chunk((4,), "b", reasoning="s"),
                Chunk((5,), "", tool_calls=(CALL_BEGINS,)),
                Chunk((6,), "", tool_calls=(ToolCallDelta(0, function=FunctionDelta(None, "{")),)),
                Chunk((7,), "", tool_calls=(ToolCallDelta(1, "call-2", "function"),)),
                Chunk((8,), "c", tool_calls=(ToolCallDelta(1, function=FunctionDelta("x", "}")),)),
            ]
        )
    )
)
def test_chunks_that_are_merged_say_the_same_in_the_same_order(chunks: list[Chunk]) -> None:
    told = merged(replace(chunk) for chunk in chunks)
    assert _as_streamed(told) == _as_streamed(chunks)
    assert emitted(told) == emitted(chunks)
    assert len(told) <= len(chunks)


def test_as_much_as_one_chunk_can_tell_is_merged() -> None:
    part = ToolCallDelta(0, function=FunctionDelta(None, "{}"))
    chunks = [Chunk((1,), "", reasoning="r"), Chunk((2,), "a"), Chunk((3,), "b")]
    chunks += [Chunk((4,), "", tool_calls=(one,)) for one in (CALL_BEGINS, part)]
    (only,) = merged(chunks)
    assert (only.reasoning, only.text, len(only.tool_calls)) == ("r", "ab", 1)


def _as_streamed(chunks: list[Chunk]) -> Message:
    streamed = Streamed()
    for chunk in chunks:
        streamed.add(chunk.reasoning, chunk.text, chunk.tool_calls)
    return streamed.message()
