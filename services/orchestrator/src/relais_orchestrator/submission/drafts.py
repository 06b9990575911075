"""Converts each route's schema into a draft of a job. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

from relais_common.jobs.chat import ChatOptions, ImagePart, Message, images_of
from relais_common.jobs.job import (
    Embedding,
    InputType,
    OnDisconnect,
    OnWorkerLoss,
    Operation,
    Priority,
    PromptOptions,
    Sampling,
)
from relais_common.jobs.records import ApiRecord
from relais_orchestrator.api.embeddings.schemas import (
    ClassifyRequest,
    CohereRerankRequest,
    EmbeddingRequest,
    Inputs,
    RerankRequest,
    ScoreRequest,
    as_list,
)
from relais_orchestrator.api.messages.schemas import CountTokensRequest, MessagesRequest
from relais_orchestrator.api.native.schemas import SubmitRequest
from relais_orchestrator.api.openai.schemas import ChatCompletionRequest, CompletionRequest
from relais_orchestrator.api.schemas.prompts import each
from relais_orchestrator.api.schemas.tools import plain
from relais_orchestrator.api.tokens.schemas import DetokenizeRequest, TokenizeRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A validated request, independent of its route.

    Attributes:
        inputs_field: where the route has the inputs of `embedding`.
        image_fields: where the body has the images of `messages`, in their order; empty if it is a chat's.
        is_delivered: its client waits for a result that nobody needs once the client has it or has left.
        operation: None for the one that follows from what is given.
        record: what the API keeps with it.
    """

    model: str
    priority: Priority
    deadline_s: float | None
    on_disconnect: OnDisconnect
    on_worker_loss: OnWorkerLoss = OnWorkerLoss.FAIL
    messages: tuple[Message, ...] | None = None
    image_fields: tuple[str, ...] = ()
    prompts: tuple[str | tuple[int, ...], ...] = ()
    n: int = 1
    embedding: Embedding | None = None
    inputs_field: str = "input"
    chat_template_kwargs: dict[str, Any] | None = None
    chat: ChatOptions = field(default_factory=ChatOptions)
    prompting: PromptOptions = field(default_factory=PromptOptions)
    sampling: Sampling = field(default_factory=Sampling)
    is_delivered: bool = False
    operation: Operation | None = None
    record: ApiRecord | None = None

    @property
    def images(self) -> list[tuple[str, str, ImagePart]]:
        """The images, each with its field in the body, and with its path in the job."""
        found = list(images_of(self.messages or ()))
        fields = self.image_fields or [path for path, _ in found]
        return [(field, *one) for field, one in zip(fields, found, strict=True)]

    @property
    def answers(self) -> int:
        """How many answers it asks for."""
        return self.n * max(1, len(self.prompts))


@dataclass(frozen=True, slots=True)
class Asked:
    """A draft, and the options of its response.

    Attributes:
        stream, include_usage, continuous_usage: options of the OpenAI routes.
        begins: what an answer to a chat continues, if that is to be repeated.
        tells_logprobs: of a text completion.
        base64: whether to return vectors as base64.
        top_n: number of results of a ranking; None for all.
        return_documents: whether a ranking includes its documents.
        ignored: unknown fields of the body, as the response names them.
    """

    draft: Draft
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    begins: str = ""
    tells_logprobs: bool = False
    base64: bool = False
    top_n: int | None = None
    return_documents: bool = True
    ignored: tuple[str, ...] = ()


def _draft(
    wanted: ChatCompletionRequest
    | CompletionRequest
    | SubmitRequest
    | EmbeddingRequest
    | RerankRequest
    | CohereRerankRequest
    | ScoreRequest
    | ClassifyRequest
    | MessagesRequest,
) -> Draft:
    """What every route has."""
    return Draft(
        model=wanted.model,
        priority=wanted.priority,
        deadline_s=wanted.deadline_s,
        on_disconnect=wanted.on_disconnect,
    )


def chat(wanted: ChatCompletionRequest) -> Asked:
    """Convert a chat completion."""
    draft = replace(
        _draft(wanted),
        messages=tuple(turn.to_message() for turn in wanted.messages),
        chat_template_kwargs=wanted.chat_template_kwargs,
        chat=wanted.to_options(),
        n=wanted.n or 1,
        prompting=replace(
            wanted.to_prompting(echo=bool(wanted.echo), echoed_logprobs=wanted.top_logprobs),
            echo=False,
        ),
        sampling=wanted.to_sampling(
            max_tokens=wanted.max_completion_tokens, logprobs=wanted.told_logprobs
        ),
    )
    begins = ""
    if wanted.echo and wanted.messages[-1].role == "assistant":
        begins = wanted.messages[-1].to_message().text
    return replace(_asked(draft, wanted), begins=begins)


def completion(wanted: CompletionRequest) -> Asked:
    """Convert a text completion."""
    sampling = wanted.to_sampling(logprobs=wanted.logprobs)
    draft = replace(
        _draft(wanted),
        prompts=each(wanted.prompt),
        n=wanted.n or 1,
        prompting=wanted.to_prompting(echo=bool(wanted.echo), echoed_logprobs=wanted.logprobs),
        sampling=sampling,
    )
    return replace(_asked(draft, wanted), tells_logprobs=wanted.logprobs is not None)


def _asked(draft: Draft, wanted: ChatCompletionRequest | CompletionRequest) -> Asked:
    return Asked(
        draft,
        stream=bool(wanted.stream),
        include_usage=wanted.include_usage,
        continuous_usage=wanted.continuous_usage,
    )


def native(wanted: SubmitRequest) -> Asked:
    """Convert a native request."""
    messages, prompt = wanted.messages, wanted.prompt
    embedding = None
    if wanted.input is not None:
        embedding = Embedding(
            inputs=_each(wanted.input), input_type=wanted.input_type, dimensions=wanted.dimensions
        )
    return Asked(
        replace(
            _draft(wanted),
            messages=None if messages is None else tuple(turn.to_message() for turn in messages),
            chat_template_kwargs=wanted.chat_template_kwargs,
            chat=wanted.to_options(),
            prompts=each(prompt),
            n=wanted.params.n or 1,
            prompting=wanted.params.to_prompting(
                echo=bool(wanted.params.echo), echoed_logprobs=wanted.params.logprobs
            ),
            embedding=embedding,
            sampling=wanted.params.to_sampling(logprobs=wanted.params.logprobs),
            on_worker_loss=wanted.on_worker_loss,
        )
    )


def embeddings(wanted: EmbeddingRequest) -> Asked:
    """Convert a request for embeddings."""
    embedding = Embedding(
        inputs=_each(wanted.input), input_type=wanted.input_type, dimensions=wanted.dimensions
    )
    return Asked(_vectors(wanted, embedding), base64=wanted.encoding_format == "base64")


def rerank(wanted: RerankRequest | CohereRerankRequest) -> Asked:
    """Convert a request to rank documents."""
    texts = tuple(one if isinstance(one, str) else one.text for one in wanted.documents)
    embedding = Embedding(inputs=texts, queries=(wanted.query,), input_type=InputType.PASSAGE)
    return Asked(
        replace(_vectors(wanted, embedding), inputs_field="documents"),
        top_n=wanted.top_n,
        return_documents=isinstance(wanted, RerankRequest) and wanted.return_documents is not False,
    )


def score(wanted: ScoreRequest) -> Asked:
    """Convert a request for scores."""
    embedding = Embedding(
        inputs=tuple(as_list(wanted.text_2)),
        queries=tuple(as_list(wanted.text_1)),
        input_type=InputType.PASSAGE,
    )
    return Asked(replace(_vectors(wanted, embedding), inputs_field="text_2"))


def classify(wanted: ClassifyRequest) -> Asked:
    """Convert a request for the probabilities of classes."""
    return Asked(
        replace(
            _vectors(wanted, Embedding(inputs=_each(wanted.input))),
            operation=Operation.CLASSIFY,
            prompting=PromptOptions(
                add_special_tokens=wanted.add_special_tokens,
                truncate_prompt_tokens=wanted.truncate_prompt_tokens,
            ),
        )
    )


def tokenize(wanted: TokenizeRequest) -> Asked:
    """Convert a request to tokenize."""
    messages = wanted.messages
    return Asked(
        replace(
            _tokens(wanted.model, Operation.TOKENIZE),
            prompts=each(wanted.prompt),
            messages=None if messages is None else tuple(turn.to_message() for turn in messages),
            chat_template_kwargs=wanted.chat_template_kwargs,
            chat=ChatOptions(
                tools=plain(wanted.tools),
                add_generation_prompt=wanted.add_generation_prompt is not False,
                continue_final_message=bool(wanted.continue_final_message),
            ),
            prompting=PromptOptions(
                add_special_tokens=wanted.add_special_tokens, echo=bool(wanted.return_token_strs)
            ),
        )
    )


def messages(wanted: MessagesRequest) -> Asked:
    draft = replace(
        _draft(wanted),
        messages=wanted.to_messages(),
        image_fields=wanted.image_fields(),
        chat_template_kwargs=wanted.to_template_kwargs(),
        chat=wanted.to_options(),
        sampling=wanted.to_sampling(),
    )
    return Asked(draft, stream=bool(wanted.stream))


def count_tokens(wanted: CountTokensRequest) -> Asked:
    options = wanted.to_options()
    return Asked(
        replace(
            _tokens(wanted.model, Operation.TOKENIZE),
            messages=wanted.to_messages(),
            image_fields=wanted.image_fields(),
            chat_template_kwargs=wanted.to_template_kwargs(),
            chat=ChatOptions(tools=options.tools, reasoning_effort=options.reasoning_effort),
        )
    )


def detokenize(wanted: DetokenizeRequest) -> Asked:
    """Convert a request to detokenize."""
    draft = _tokens(wanted.model, Operation.DETOKENIZE)
    return Asked(replace(draft, prompts=each(wanted.tokens)))


def _tokens(model: str, operation: Operation) -> Draft:
    """A request that runs no model; its limits are those of any other."""
    return Draft(
        model=model,
        priority=Priority.NORMAL,
        deadline_s=None,
        on_disconnect=OnDisconnect.CANCEL,
        is_delivered=True,
        operation=operation,
        sampling=Sampling(max_tokens=1),
    )


def _vectors(
    wanted: EmbeddingRequest | RerankRequest | CohereRerankRequest | ScoreRequest | ClassifyRequest,
    asked: Embedding,
) -> Draft:
    is_delivered = wanted.on_disconnect is OnDisconnect.CANCEL
    return replace(_draft(wanted), embedding=asked, is_delivered=is_delivered)


def _each(given: Inputs) -> tuple[str | tuple[int, ...], ...]:
    """Return the inputs, one for each vector."""
    if isinstance(given, str):
        return (given,)
    first = given[0]
    if isinstance(first, int):
        return (tuple(cast("list[int]", given)),)
    if isinstance(first, list):
        return tuple(map(tuple, cast("list[list[int]]", given)))
    return tuple(cast("list[str]", given))
