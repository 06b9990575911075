"""An engine whose tokens follow from the prompt, for tests and benchmarks of everything around an engine.

Token i of an answer is a word chosen by a hash of the prompt and i (and of the number of the answer, where several
are wanted), so any worker gives the same answer, and
a resumed answer can be verified exactly. It needs no model and no GPU.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice, starmap

import orjson

from relais_common.jobs.chat import Chat, Message, TextPart
from relais_common.jobs.errors import EngineDead, EngineFailed, EngineRefused, NotResumable
from relais_common.jobs.events import PromptLogprob, RankedToken, TokenLogprob
from relais_common.jobs.job import Sampling
from relais_llm_worker.answer_text import AnswerText
from relais_llm_worker.engine import (
    NOTHING,
    Chunk,
    Emitted,
    EncodedChat,
    EngineLoad,
    Generation,
    ModelInfo,
    exceeds_context,
)
from relais_llm_worker.engines.markup import MarkupParser
from relais_llm_worker.engines.token_texts import id_as_text
from relais_llm_worker.parsed_answer import ParsedAnswer

_WORDS = tuple(
    "la file attend son tour et le relais porte chaque mot jusqu au guichet ouvert "
    "the queue keeps its order while every token finds an open window".split()
)
DEFAULT_ANSWER_TOKENS = 32
_CUT = "passé".encode()
_SAY, _SAID = b"[say]", b"[/say]"
_SAID_BYTES = 5
_SAID_IDS = 1 << 16
"""Ids from here on are parts of a text that the prompt asked for; those below are words."""


def _token_bytes(position: int, token_id: int) -> bytes:
    """Return the bytes of a token. Every eighth token ends within a character, as in a byte-level vocabulary."""
    word = f"{_WORDS[token_id % len(_WORDS)]} ".encode()
    if position % 8 == 3:
        return word + _CUT[:-1]
    return _CUT[-1:] + word if position % 8 == 4 else word


def answer_pieces(prompt_token_ids: list[int], count: int, index: int = 0) -> list[str]:
    """Return the text that each of the first `count` tokens of this answer to a prompt adds."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    token_ids = answer_token_ids(prompt_token_ids, count, index)
    return [decode(piece) for piece in starmap(_token_bytes, enumerate(token_ids))]


def answer_text(prompt_token_ids: list[int], count: int, index: int = 0) -> str:
    """Return the text of the first `count` tokens of this answer to a prompt."""
    return "".join(answer_pieces(prompt_token_ids, count, index))


def chat_prompt(turns: Iterable[tuple[str, str]], *, is_open: bool = False) -> list[int]:
    """Return the prompt token ids of a conversation of (role, content).

    Args:
        is_open: nothing begins an answer after it.
    """
    begins = "" if is_open else "<assistant>"
    return list(("".join(f"<{role}>{text}" for role, text in turns) + begins).encode())


def answer_token_ids(prompt_token_ids: list[int], count: int, index: int = 0) -> Iterator[int]:
    """The first `count` token ids of this answer to a prompt, each made when it is asked for."""
    asked = f"{prompt_token_ids!r}{index or ''}"
    seed = hashlib.sha256(asked.encode()).digest()
    for i in range(count):
        digest = hashlib.sha256(seed + i.to_bytes(4, "big")).digest()
        yield int.from_bytes(digest[:2], "big")


def _last_said(prompt: bytes) -> bytes | None:
    said, start = None, prompt.find(_SAY)
    while start >= 0 and (end := prompt.find(_SAID, start)) >= 0:
        said = prompt[start + len(_SAY) : end]
        start = prompt.find(_SAY, end)
    return said


def said_text(prompt_token_ids: list[int], chat: Chat | None) -> bytes | None:
    """Return the answer that a prompt asks for: the last `[say]...[/say]`, or the call that a chat demands."""
    said = _last_said(bytes(prompt_token_ids))
    if said is not None:
        return said
    if chat is None or not chat.options.must_call:
        return None
    name = chat.options.named or chat.options.tools[0]["function"]["name"]
    words = answer_text(prompt_token_ids, DEFAULT_ANSWER_TOKENS)
    call = orjson.dumps({"name": name, "arguments": {"words": words}})
    return b"<tool_call>%b</tool_call>" % call


def told_logprob(piece: str, token_id: int, count: int) -> TokenLogprob:
    """Return deterministic log probabilities: the chosen token is the likeliest, followed by the next words."""
    ranked = [RankedToken(piece, -(token_id % 100) / 1000)]
    for rank in range(1, count):
        word = _WORDS[(token_id + rank) % len(_WORDS)]
        ranked.append(RankedToken(f"{word} ", ranked[0].logprob - rank))
    return TokenLogprob(piece, ranked[0].logprob, tuple(ranked[:count]))


def told_prompt(token_ids: Sequence[int], count: int) -> tuple[tuple[PromptLogprob, ...], ...]:
    """Return deterministic log probabilities of a prompt: each token is the likeliest, followed by the next bytes."""
    return tuple(
        (PromptLogprob(token_id, chr(token_id), None, None),)
        if at == 0
        else tuple(
            PromptLogprob(token_id + rank, chr(token_id + rank), -at / 1000 - rank, rank + 1)
            for rank in range(max(1, count))
        )
        for at, token_id in enumerate(token_ids)
    )


def _written(message: Message) -> str:
    """Return a message's text, with its calls, and with the type and length of each image in its place."""
    calls = "".join(
        f"<call>{one.function.name}{one.function.arguments}" for one in message.tool_calls
    )
    text = message.content or ""
    if isinstance(text, tuple):
        text = "".join(
            part.text if isinstance(part, TextPart) else _pictured(part.image_url.url)
            for part in text
        )
    return f"{text}{calls}"


def _pictured(url: str) -> str:
    kind, _, data = url.partition(",")
    return f"<image {kind} {len(data)}>"


class DeterministicEngine:
    """One token per request and step.

    Args:
        tokens_per_s: speed of each request; 0 generates tokens as fast as the event loop runs.

    Tests can request faults: a prompt that contains `[engine-fault]` fails alone, one that
    contains `[engine-death]` kills the engine. They can request answers: the answer to `[say]...[/say]` is what stands
    between, five bytes a token; in a chat, `markup` in it is reasoning and tool calls. Where a tool must be called and
    nothing is to be said, it is called with `{"words": ...}`.

    Attributes:
        steps: tokens generated so far.
    """

    def __init__(
        self, name: str, *, max_model_len: int, max_num_seqs: int, tokens_per_s: float
    ) -> None:
        self._info = ModelInfo(
            name, "deterministic-1", max_model_len, max_num_seqs, supports_images=True
        )
        self._step_s = 1 / tokens_per_s if tokens_per_s else 0.0
        self._running: list[str] = []
        self._dead = False
        self.steps = 0

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def running(self) -> frozenset[str]:
        """Return the requests that occupy a place now."""
        return frozenset(self._running)

    def load(self) -> EngineLoad:
        # It has no KV cache; its places are the only limit.
        return EngineLoad(waiting=0, kv_cache_usage=0.0, steps=self.steps)

    async def encode_chat(
        self, key_id: str, chat: Chat, *, add_special_tokens: bool = False, keep: int | None = None
    ) -> EncodedChat:
        messages, options = chat.messages, chat.options
        told = {**chat.template_kwargs}
        if options.may_call:
            told["tools"] = orjson.dumps(options.tools).decode()
        if options.reasoning_effort is not None:
            told["reasoning_effort"] = options.reasoning_effort
        if options.documents:
            told["documents"] = orjson.dumps(options.documents).decode()
        turns = [(name, str(value)) for name, value in told.items()]
        turns += [
            (f"{turn.role} {turn.name}" if turn.name else turn.role, _written(turn))
            for turn in messages
        ]
        if keep is None:
            self._require_fit("messages", sum(len(text) for _, text in turns))
        is_open = options.continue_final_message or not options.add_generation_prompt
        return EncodedChat([0] * add_special_tokens + chat_prompt(turns, is_open=is_open))

    async def encode_text(
        self, key_id: str, text: str, *, add_special_tokens: bool = True, keep: int | None = None
    ) -> list[int]:
        # It has no special tokens.
        if keep is None:
            self._require_fit("prompt", len(text))
        return list(text.encode())

    async def decode(self, key_id: str, token_ids: Sequence[int]) -> str:
        if any(token_id > 255 for token_id in token_ids):
            raise EngineRefused("a token id is out of the vocabulary", param="tokens")
        return bytes(token_ids).decode(errors="replace")

    async def token_texts(self, key_id: str, token_ids: Sequence[int]) -> list[str]:
        return [chr(token_id) for token_id in token_ids]

    def _require_fit(self, param: str, characters: int) -> None:
        # A token is a byte.
        if characters >= self._info.max_model_len:
            raise exceeds_context(self._info.max_model_len, param, f"at least {characters} tokens")

    def settled(self, sampling: Sampling, chat: Chat | None = None) -> Sampling:
        return sampling

    async def check_structure(
        self, sampling: Sampling, *, key_id: str, param: str | None = None
    ) -> None:
        for name in ("response_format", "structured_outputs"):
            if getattr(sampling, name):
                raise EngineRefused(f"the deterministic engine follows no {name}", param=name)

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
        if self._dead:
            raise EngineDead("the deterministic engine was told to die")
        if any(token_id > 255 for token_id in prompt_token_ids):
            raise EngineRefused("a prompt token id is out of the vocabulary", param="prompt")
        for name in ("bad_words", "allowed_token_ids"):
            if getattr(sampling, name):
                raise EngineRefused(f"the deterministic engine follows no {name}", param=name)
        run = _Generation(
            self, prompt_token_ids, sampling, max_tokens, emitted, chat, request_id, prompt_logprobs
        )
        self._running.append(request_id)
        try:
            yield run
        finally:
            self._running.remove(request_id)

    async def check_health(self) -> None:
        if self._dead:
            raise EngineDead("the deterministic engine was told to die")

    def kill(self) -> None:
        self._dead = True

    async def step(self) -> None:
        """Wait for the next token's turn."""
        await asyncio.sleep(self._step_s)
        await self.check_health()
        self.steps += 1


class _Generation:
    def __init__(
        self,
        engine: DeterministicEngine,
        prompt_token_ids: list[int],
        sampling: Sampling,
        max_tokens: int,
        emitted: Emitted,
        chat: Chat | None,
        request_id: str,
        prompt_logprobs: int | None,
    ) -> None:
        index = int(request_id.partition("#")[2] or 0)
        self._prompt_logprobs = prompt_logprobs
        self._as_ids = sampling.return_tokens_as_token_ids
        self._engine = engine
        self._prompt_token_ids = prompt_token_ids
        self._max_tokens = max_tokens
        self._said = said_text(prompt_token_ids, chat)
        own_length = DEFAULT_ANSWER_TOKENS
        if self._said is not None:
            own_length = max(1, -(-len(self._said) // _SAID_BYTES))
        elif sampling.max_tokens is not None or sampling.ignore_eos:
            own_length = max_tokens
        self._length = min(own_length, max_tokens)
        self._ends_itself = own_length < max_tokens or (
            self._said is not None and own_length == max_tokens
        )
        self._token_ids: Iterator[int] = answer_token_ids(prompt_token_ids, self._length, index)
        self._parsed: ParsedAnswer | None = None
        if self._said is not None:
            self._token_ids = iter(range(_SAID_IDS, _SAID_IDS + self._length))
            if chat is not None:
                parser = MarkupParser(request_id.encode(), calls=chat.options.may_call)
                self._parsed = ParsedAnswer(parser, chat.options)
        self._begin = len(emitted.token_ids)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._position = 0
        self._piece = ""
        self._logprobs = sampling.logprobs
        self._stop_token_ids = frozenset(sampling.stop_token_ids)
        self._min_tokens = sampling.min_tokens or 0
        self._keep_stop = sampling.include_stop_str_in_output
        self._text = AnswerText(
            self._decode_next,
            sampling.stop,
            sampling.min_tokens or 0,
            keep_stop=sampling.include_stop_str_in_output,
        )
        if tuple(islice(self._token_ids, self._begin)) != emitted.token_ids or not self._replay(
            emitted
        ):
            raise NotResumable("the tokens so far are none of this engine's")

    def _replay(self, emitted: Emitted) -> bool:
        if self._parsed is None:
            return self._text.replay(emitted)
        return self._parsed.replay(self._text, emitted)

    def _decode_next(self, token_id: int) -> str:
        if self._said is None:
            piece = _token_bytes(self._position, token_id)
        else:
            begin = self._position * _SAID_BYTES
            piece = self._said[begin : begin + _SAID_BYTES]
        self._piece = self._decoder.decode(piece)
        self._position += 1
        return self._piece

    async def chunks(self) -> AsyncIterator[Chunk]:
        prompt = bytes(self._prompt_token_ids)
        if b"[engine-fault]" in prompt:
            raise EngineFailed("the engine failed while it ran this request")
        if b"[engine-death]" in prompt:
            self._engine.kill()
        for count, token_id in enumerate(self._token_ids, self._begin + 1):
            await self._engine.step()
            matched: str | int | None = None
            if token_id in self._stop_token_ids and count > self._min_tokens:
                matched = token_id
            if matched is None or self._keep_stop:
                matched = self._text.feed(token_id) or matched
            reason = None if matched is None else "stop"
            if matched is None and count == self._length:
                reason = "stop" if self._ends_itself else "length"
            text = self._text.give(ended=reason is not None)
            chunk = Chunk((token_id,), text, reason, matched)
            if self._logprobs is not None:
                piece = id_as_text((token_id,)) if self._as_ids else self._piece
                chunk.logprobs = (told_logprob(piece, token_id, self._logprobs),)
            if self._prompt_logprobs is not None:
                chunk.prompt_logprobs = told_prompt(self._prompt_token_ids, self._prompt_logprobs)
                self._prompt_logprobs = None
            yield chunk if self._parsed is None else self._parsed.tell_apart(chunk)
            if matched is not None:
                return
