"""Prompts to token ids: how much is tokenised of one that cannot fit, and what others wait for meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from relais_common.jobs.chat import FunctionCall, Message, ToolCall
from relais_common.jobs.errors import EngineRefused
from relais_llm_worker.engines.prompts import SHORT_TEXT, SLICE, Prompts, pieces
from relais_testing.waiting import LIVENESS_S, wait_until

LIMIT = 20_000
HUGE = "word " * 800_000


class WatchedTokenizer:
    """A token is a word.

    Attributes:
        calls: length and thread of each text so far.
        gate: cleared, texts that are longer than a slice stay in the tokenizer.
    """

    def __init__(self, max_chars_per_token: int) -> None:
        self.max_chars_per_token = max_chars_per_token
        self.calls: list[tuple[int, int]] = []
        self.gate = threading.Event()
        self.gate.set()

    @property
    def characters(self) -> int:
        return sum(length for length, _ in self.calls)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        self.calls.append((len(text), threading.get_ident()))
        if len(text) > SLICE:
            assert self.gate.wait(LIVENESS_S)
        return [0] * add_special_tokens + [len(word) for word in text.split()]

    def decode(self, token_ids: list[int]) -> str:
        return "word " * len(token_ids)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return ["word"] * len(ids)

    def apply_chat_template(
        self, messages: list[dict[str, str]], *, tokenize: bool, **told: Any
    ) -> Any:
        text = "".join(f"<{turn['role']}> {turn['content']} " for turn in messages)
        text += " ".join(str(told[name]) for name in told if name == "said")
        return self.encode(text, add_special_tokens=False) if tokenize else text


@pytest.fixture
async def weak() -> AsyncIterator[tuple[Prompts, WatchedTokenizer]]:
    """A vocabulary whose longest token says nothing about a prompt of these sizes."""
    tokenizer = WatchedTokenizer(max_chars_per_token=10_000)
    prompts = Prompts(tokenizer, LIMIT)
    yield prompts, tokenizer
    tokenizer.gate.set()
    await asyncio.to_thread(prompts.close)


def chat(text: str, turns: int = 1) -> list[Message]:
    return [Message("user", text[n::turns]) for n in range(turns)]


async def refusal(work: Any) -> EngineRefused:
    with pytest.raises(EngineRefused) as caught:
        await work
    assert caught.value.code == "context_length_exceeded"
    assert f"maximum context length is {LIMIT} tokens" in caught.value.message
    return caught.value


async def test_more_characters_than_the_context_can_hold_are_refused_untokenised() -> None:
    tokenizer = WatchedTokenizer(max_chars_per_token=16)
    prompts = Prompts(tokenizer, LIMIT)
    assert (await refusal(prompts.of_text("k", HUGE))).param == "prompt"
    assert (await refusal(prompts.of_chat("k", chat(HUGE), {}))).param == "messages"
    assert (await refusal(prompts.of_chat("k", chat(HUGE, 2048), {}))).param == "messages"
    assert (await refusal(prompts.of_chat("k", chat("a"), {"said": HUGE}))).param == "messages"
    assert tokenizer.calls == []
    prompts.close()


@pytest.mark.parametrize("kind", ["text", "chat"])
async def test_no_more_is_tokenised_than_shows_that_it_is_too_long(
    weak: tuple[Prompts, WatchedTokenizer], kind: str
) -> None:
    prompts, tokenizer = weak
    asked = prompts.of_text("k", HUGE) if kind == "text" else prompts.of_chat("k", chat(HUGE), {})
    await refusal(asked)
    # Five characters a token, and a slice more.
    assert LIMIT * 5 < tokenizer.characters < LIMIT * 5 + 2 * SLICE
    assert max(length for length, _ in tokenizer.calls) <= SLICE


async def test_what_fits_is_tokenised_whole(weak: tuple[Prompts, WatchedTokenizer]) -> None:
    prompts, tokenizer = weak
    for words in (1, 1000, 3000, 10_000, LIMIT - 10):
        text = "word " * words
        assert await prompts.of_text("k", text) == [0, *[4] * words]
        assert tokenizer.calls[-1][0] == len(text)
        assert await prompts.of_chat("k", chat(text), {}) == [6, *[4] * words]


@pytest.mark.parametrize("special", [True, False])
async def test_of_a_long_chat_that_is_cut_only_the_end_is_tokenised(*, special: bool) -> None:
    tokenizer = WatchedTokenizer(max_chars_per_token=16)
    prompts = Prompts(tokenizer, LIMIT)
    for variables in ({}, {"said": "x"}):
        told = await prompts.of_chat(
            "k", chat(HUGE + "xx"), variables, add_special_tokens=special, keep=3
        )
        assert told[-3:] == ([4, 2, 1] if variables else [4, 4, 2]) or special
    assert tokenizer.characters <= 4 * 2 * SLICE
    prompts.close()


async def test_short_ones_stay_in_the_thread_that_asks(
    weak: tuple[Prompts, WatchedTokenizer],
) -> None:
    prompts, tokenizer = weak
    await prompts.of_text("k", "a" * SHORT_TEXT)
    await prompts.of_chat("k", chat("a" * 100), {})
    await prompts.of_text("k", "a" * (SHORT_TEXT + 1))
    here = threading.get_ident()
    assert [thread == here for _, thread in tokenizer.calls] == [True, True, False]


@pytest.mark.parametrize(
    "messages",
    [
        [Message("assistant", tool_calls=(ToolCall("c", FunctionCall("f", "")),) * 128)],
        [Message("assistant", tool_calls=(ToolCall("c", FunctionCall("f" * 256, "")),) * 10)],
        [Message("assistant", tool_calls=(ToolCall("c" * 256, FunctionCall("f", "")),) * 10)],
        [Message("user", "a", name="n" * 256)] * 10,
        [Message("tool", "a", tool_call_id="c" * 256)] * 10,
    ],
    ids=["calls", "functions", "ids of calls", "names", "ids of results"],
)
async def test_chat_that_is_long_beside_its_content_leaves_the_thread_that_asks(
    weak: tuple[Prompts, WatchedTokenizer], messages: list[Message]
) -> None:
    prompts, tokenizer = weak
    await prompts.of_chat("k", messages, {})
    ((_, thread),) = tokenizer.calls
    assert thread != threading.get_ident()


async def test_victim_waits_for_one_slice_of_sixteen_huge_prompts(
    weak: tuple[Prompts, WatchedTokenizer],
) -> None:
    prompts, tokenizer = weak
    huge = [asyncio.create_task(prompts.of_text("attacker", HUGE)) for _ in range(16)]
    await wait_until(lambda: tokenizer.calls)
    at = len(tokenizer.calls)
    small = "word " * 1000
    assert len(await prompts.of_text("victim", small)) == 1001
    before = [length for length, _ in tokenizer.calls[at:]].index(len(small))
    # The one that ran may have ended meanwhile, and the next begun.
    assert before <= 2
    assert not any(one.done() for one in huge)
    for one in huge:
        await refusal(one)


async def test_victim_does_not_wait_for_a_long_prompt_that_fits(
    weak: tuple[Prompts, WatchedTokenizer],
) -> None:
    prompts, tokenizer = weak
    tokenizer.gate.clear()
    long = asyncio.create_task(prompts.of_text("other", "word " * (LIMIT - 10)))
    await wait_until(lambda: tokenizer.calls and tokenizer.calls[-1][0] > SLICE)
    assert len(await prompts.of_text("victim", "word " * 1000)) == 1001
    assert len(await prompts.of_chat("victim", chat("word " * 1000), {"said": "x"})) == 1002
    assert not long.done()
    tokenizer.gate.set()
    assert len(await long) == LIMIT - 9


def test_pieces_are_the_text() -> None:
    for text in ("", "a", HUGE, "a" * 100_000, " " * 100_000, "a\n" * 50_000, "é" * SLICE):
        cut = list(pieces(text))
        assert "".join(cut) == text
        assert all(0 < len(piece) <= SLICE for piece in cut)
    assert all(piece.startswith("word") or piece[0] == " " for piece in pieces(HUGE))


@pytest.mark.parametrize(
    ("keep", "special", "ids"),
    [
        (2, True, [0, 3]),
        (2, False, [2, 3]),
        (4, True, [0, 1, 2, 3]),
        (9, True, [0, 1, 2, 3]),
        (1, True, [0]),
    ],
)
async def test_a_text_loses_its_beginning_and_not_the_special_tokens(
    weak: tuple[Prompts, WatchedTokenizer], keep: int, special: bool, ids: list[int]
) -> None:
    prompts, _ = weak
    told = await prompts.of_text("a", "x xx xxx", add_special_tokens=special, keep=keep)
    assert told[-keep:] == ids
