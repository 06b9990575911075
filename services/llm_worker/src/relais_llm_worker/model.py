"""The port of a model, in this process or behind servers, that handlers use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from relais_common.jobs.job import Job
from relais_common.worker.status import ModelStatus
from relais_llm_worker.engine import Chunk, Emitted


@dataclass(frozen=True, slots=True)
class Cut:
    """An interrupted stream, as its log describes it.

    Attributes:
        prompt_token_ids: the prompt as that holder's engine received it; empty if unknown.
        model_revision: the weights that it used.
        emitted: the published part of the answer.
    """

    prompt_token_ids: tuple[int, ...]
    model_revision: str
    emitted: Emitted


@dataclass(frozen=True, slots=True)
class Answer:
    """A job that the model has accepted.

    Attributes:
        prompt_token_ids: empty if a server does not report them.
        model_revision: identifies the weights; a stream continues only on the same ones.
        chunks: in order; the last one has a `finish_reason`. They raise what `Generation.chunks` does, and
            NotResumable if a server was lost and the answer cannot continue at another.
    """

    prompt_token_ids: Sequence[int]
    model_revision: str
    chunks: AsyncIterator[Chunk]


class Tokens(Struct, frozen=True):
    """A prompt's tokens, as vLLM tells them.

    Attributes:
        token_strs: as the tokenizer writes each; None unless the job asks for the text (`prompting.echo`).
    """

    tokens: list[int]
    token_strs: list[str] | None = None


class Model(Protocol):
    """One model, in this process or behind servers."""

    @property
    def name(self) -> str:
        """Return the name of the model."""

    def room(self, held: int) -> int:
        """Return how many more jobs it could begin now, while this worker holds `held`."""
        ...

    def status(self) -> ModelStatus:
        """Return capacity, context and readiness."""

    def can_continue(self, job: Job) -> bool:
        """Return whether this job's answer can continue exactly, without its tokens being made again one by one."""
        ...

    def answer(self, job: Job, cut: Cut | None = None) -> AbstractAsyncContextManager[Answer]:
        """Return a context that hands the job to the model on entry; leaving it early aborts the job.

        Args:
            cut: the interrupted stream of an earlier holder. Chunks continue after it, ids and text.

        Raises (on entry):
            NotResumable: the answer cannot continue after `cut`.
            EngineRefused: the request is invalid: a bad schema, an unknown token, a prompt that is too long.
            EngineFailed: the model failed on this request.
            EngineDead: the engine has died.
        """
        ...

    async def tokenize(self, job: Job) -> Tokens:
        """Return the tokens of the job's text or chat.

        Raises:
            EngineRefused: it is far longer than the context, or a server does not tell.
            EngineFailed: the server failed.
        """
        ...

    async def detokenize(self, job: Job) -> str:
        """Return the text of the job's token ids. Raises as `tokenize` does, also for an id that the model lacks."""
        ...

    async def check_health(self) -> None:
        """Raise EngineDead if the model can never run anything more."""
        ...
