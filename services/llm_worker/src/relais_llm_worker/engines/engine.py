"""What `LocalModel` asks of an engine in this process. Nothing outside `app.py` knows which one runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from relais_common.jobs.errors import EngineRefused
from relais_common.jobs.events import TokenLogprob, Usage
from relais_common.jobs.job import Message, Sampling


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model an engine has loaded.

    Attributes:
        revision: what identifies its weights; a stream goes on only on the same revision.
        max_model_len: prompt and answer together, in tokens.
        max_num_seqs: sequences the engine runs at once.
    """

    name: str
    revision: str
    max_model_len: int
    max_num_seqs: int


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy the engine is.

    Attributes:
        waiting: requests inside the engine that it has not begun.
        kv_cache_usage: share of the KV cache in use, 0 to 1.
        steps: how many the engine has made. One that has requests and makes no step is stuck.
    """

    waiting: int
    kv_cache_usage: float
    steps: int = 0


@dataclass(slots=True)  # not frozen, which would double the cost of making one
class Chunk:
    """One step of one request.

    Attributes:
        token_ids: ids that came up since the last chunk.
        text: their text; may lag behind the ids.
        finish_reason: `stop` or `length` on the last chunk, else None.
        stop_reason: the stop string or token id that matched, if one did.
        cached_tokens: prompt tokens found in the prefix cache.
        usage: on the last chunk, of a server that counts tokens and does not show them.
        logprobs: one for each id, where they were asked for.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    cached_tokens: int = 0
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class Emitted:
    """What was already published of an answer.

    Attributes:
        token_ids: every token so far.
        text: the text that went out; less than the ids say while part of it is held back.
    """

    token_ids: tuple[int, ...] = ()
    text: str = ""


NOTHING = Emitted()


def exceeds_context(max_model_len: int, param: str, found: str) -> EngineRefused:
    """The refusal of a prompt that leaves no room for an answer, in the words that clients of OpenAI look for.

    Args:
        param: the field at fault.
        found: how long it is.
    """
    return EngineRefused(
        f"This model's maximum context length is {max_model_len} tokens, prompt and answer together."
        f" Your {param} came to {found}.",
        param=param,
        code="context_length_exceeded",
    )


class Generation(Protocol):
    """A request that the engine has accepted. Leaving the context without its end aborts it."""

    def chunks(self) -> AsyncIterator[Chunk]:
        """Chunks in order; the last one has a `finish_reason`.

        Raises:
            EngineFailed: this request failed; the engine lives on.
            EngineDead: the engine is gone.
        """
        ...


class Engine(Protocol):
    """Tokenises, generates, and says how busy it is."""

    @property
    def info(self) -> ModelInfo: ...

    def load(self) -> EngineLoad: ...

    async def encode_chat(
        self, key_id: str, messages: tuple[Message, ...], template_kwargs: Mapping[str, Any]
    ) -> list[int]:
        """Token ids of a conversation through the model's own chat template.

        Args:
            key_id: whose it is; long prompts of several keys take turns.
            template_kwargs: what the template is told beside the messages.

        Raises:
            EngineRefused: the template does not accept it, or it is far longer than the context.
        """
        ...

    def settled(self, sampling: Sampling) -> Sampling:
        """The parameters that this engine would use: the request's, else the model's own defaults."""
        ...

    async def encode_text(self, key_id: str, text: str) -> list[int]:
        """Token ids of a plain prompt, with the special tokens the model wants in front.

        Raises:
            EngineRefused: it is far longer than the context.
        """
        ...

    async def check_structure(self, sampling: Sampling, *, key_id: str) -> None:
        """Return once it is known that the engine can follow the request's structured output, and cheaply.

        Raises:
            EngineRefused: it is wrong, impossible or too costly.
            TooManyTrials: the key has too many that are being found out about.
            EngineFailed: it could not be found out.
        """
        ...

    def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        sampling: Sampling,
        max_tokens: int,
        emitted: Emitted = NOTHING,
    ) -> AbstractAsyncContextManager[Generation]:
        """Entering hands the request to the engine.

        Args:
            max_tokens: of the whole answer; more than `emitted` has.
            emitted: where an earlier engine was cut off. Chunks go on after it, ids and text.

        Raises (on entry):
            NotResumable: `emitted` cannot be gone on from.
            EngineRefused: the request is wrong: a bad schema, an unknown token, too long a prompt.
            EngineDead: the engine is gone.
        """
        ...

    async def check_health(self) -> None:
        """Raises EngineDead if nothing more can be run."""
        ...

    def kill(self) -> None:
        """End the engine at once, even if it listens to nobody. Every request raises EngineDead from then on."""
        ...
