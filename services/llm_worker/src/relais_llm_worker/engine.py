"""The port of an engine in this process, which `LocalModel` uses. Only `app.py` knows which engine runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from relais_common.jobs.chat import Chat, Message, ToolCall, ToolCallDelta
from relais_common.jobs.errors import EngineRefused
from relais_common.jobs.events import AnswerEnd, PromptLogprob, TokenLogprob, Usage
from relais_common.jobs.job import Sampling


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that an engine has loaded.

    Attributes:
        revision: identifies its weights; a stream continues only on the same revision.
        max_model_len: prompt and answer together, in tokens.
        max_num_seqs: sequences that the engine runs at once, of all its models.
        parent: the model that this one is an adapter of, if it is one.
        forces_tokens: an answer can continue whatever its parameters: the engine makes the emitted tokens again first.
        supports_images: chats may have images.
    """

    name: str
    revision: str
    max_model_len: int
    max_num_seqs: int
    parent: str | None = None
    forces_tokens: bool = False
    supports_images: bool = False


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A chat as the model gets it.

    Attributes:
        token_ids: of the prompt, with as many for each image as the model sees of it.
        media: what the engine made of its images, for `Engine.generate`; None without images.
    """

    token_ids: list[int]
    media: object | None = None


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The load of an engine.

    Attributes:
        waiting: requests in the engine that it has not begun.
        kv_cache_usage: share of the KV cache in use, 0 to 1.
        steps: number of steps made. An engine that has requests and makes no step is stuck.
    """

    waiting: int
    kv_cache_usage: float
    steps: int = 0


@dataclass(slots=True)  # not frozen, which would double the cost of making one
class Chunk:
    """One step of one request.

    Attributes:
        token_ids: ids generated since the last chunk.
        text: their text; may lag behind the ids.
        finish_reason: `stop` or `length` on the last chunk, else None.
        stop_reason: the stop string or token id that matched, if one did.
        cached_tokens: prompt tokens found in the prefix cache.
        prompt_logprobs: on the first chunk, if requested: of each token of the prompt, and of candidates for its place.
        usage: on the last chunk, from a server that counts tokens but does not report ids.
        logprobs: one for each id, if requested.
        reasoning, tool_calls: what the ids say beside their text.
        message: on the last chunk, the whole answer, where it is more than its text.
        reasoning_tokens: on the last chunk, if they are counted: of the whole answer.
        unreadable: on the last chunk: the model tried to call a tool, or should have, and the call cannot be read.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    cached_tokens: int = 0
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    message: Message | None = None
    reasoning_tokens: int | None = None
    unreadable: bool = False
    prompt_logprobs: tuple[tuple[PromptLogprob, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class Emitted:
    """The published part of an answer.

    Attributes:
        token_ids: every token so far.
        text: the published text; shorter than the ids' text while part of it is held back.
        reasoning, tool_calls: published beside it.
        end: how it ended, if it did: only one of several can have, while its job goes on.
    """

    token_ids: tuple[int, ...] = ()
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    end: AnswerEnd | None = None


NOTHING = Emitted()


def exceeds_context(max_model_len: int, param: str, found: str) -> EngineRefused:
    """Return the error for a prompt that leaves no room for an answer, worded as OpenAI's clients expect.

    Args:
        param: the invalid field.
        found: its length.
    """
    return EngineRefused(
        f"This model's maximum context length is {max_model_len} tokens, prompt and answer together."
        f" Your {param} came to {found}.",
        param=param,
        code="context_length_exceeded",
    )


class Generation(Protocol):
    """A request that the engine has accepted. Leaving the context before its end aborts it."""

    def chunks(self) -> AsyncIterator[Chunk]:
        """Yield chunks in order; the last one has a `finish_reason`.

        Raises:
            NotResumable: before the first chunk: the engine would not make the emitted tokens again.
            EngineFailed: this request failed; the engine keeps running.
            EngineDead: the engine has died.
        """
        ...


class Engine(Protocol):
    """Tokenises prompts, generates tokens, and reports its load."""

    @property
    def info(self) -> ModelInfo:
        """Return what the engine runs, and its limits."""

    def load(self) -> EngineLoad:
        """Return its present load."""

    async def encode_chat(
        self, key_id: str, chat: Chat, *, add_special_tokens: bool = False, keep: int | None = None
    ) -> EncodedChat:
        """Apply the model's chat template, tokenise the result, and prepare the images.

        Args:
            key_id: the request's key; long prompts of several keys take turns.
            add_special_tokens: put the model's before what the template writes.
            keep: as of `encode_text`.

        Raises:
            EngineRefused: the template rejects it, it is far longer than the context, the model has no tools, or an
                image cannot be read.
        """
        ...

    def settled(self, sampling: Sampling, chat: Chat | None = None) -> Sampling:
        """Return the parameters that this engine would use: the request's, else the model's defaults.

        For a chat they have what makes the model call the tool that it must call.
        """
        ...

    async def encode_text(
        self, key_id: str, text: str, *, add_special_tokens: bool = True, keep: int | None = None
    ) -> list[int]:
        """Return a plain prompt's token ids.

        Args:
            add_special_tokens: put the model's before it.
            keep: how many tokens are left of it, the last ones; None for all.

        Raises:
            EngineRefused: it is far longer than the context.
        """
        ...

    async def decode(self, key_id: str, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included.

        Raises:
            EngineRefused: the model has no such token.
        """
        ...

    async def token_texts(self, key_id: str, token_ids: Sequence[int]) -> list[str]:
        """Return each token as the tokenizer writes it. The ids are the model's own."""
        ...

    async def check_structure(
        self, sampling: Sampling, *, key_id: str, param: str | None = None
    ) -> None:
        """Check that the engine can follow the request's structured output at low cost.

        Args:
            param: the field to blame; by default that of the structured output.

        Raises:
            EngineRefused: it is invalid, impossible or too costly.
            TooManyTrials: the key has too many trials in progress.
            EngineFailed: the trial failed.
        """
        ...

    def generate(
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
    ) -> AbstractAsyncContextManager[Generation]:
        """Return a context that hands the request to the engine on entry.

        Args:
            request_id: the job's channel id; of answers to a prompt after its first with `#` and their number.
            sampling: settled for this chat.
            max_tokens: bound of the whole answer; more than `emitted` has.
            emitted: output of an interrupted engine. Chunks continue after it, ids and text.
            chat: the conversation that the prompt is made of, if it is one: its answer may have reasoning and calls.
            prompt_logprobs: how many candidates to tell of each token of the prompt; None tells nothing.
            media: the images, as `encode_chat` returned them.
            tokens_at_once: how many tokens a chunk after the first may wait for, which costs less. An answer that is
                parsed comes token by token all the same.

        Raises (on entry):
            NotResumable: the answer cannot continue after `emitted`.
            EngineRefused: the request is invalid: a bad schema, an unknown token, a prompt that is too long.
            EngineDead: the engine has died.
        """
        ...

    async def check_health(self) -> None:
        """Raise EngineDead if the engine can run nothing more."""
        ...

    def kill(self) -> None:
        """Kill the engine at once, even if it is unresponsive. Every request raises EngineDead from then on."""
        ...
