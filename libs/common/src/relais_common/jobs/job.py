"""A request on its way through the queue: frozen types, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Self

from relais_common.jobs.beginnings import beginnings_of
from relais_common.jobs.chat import Chat, ChatOptions, Message, images_of
from relais_common.jobs.limits import Buckets

EXPECTED_TOKENS = 1024
LOGPROB_BYTES = 48
"""Of one token and its log probability, as a log has them."""
MOST_PROMPT_LOGPROBS = 32_768
"""Log probabilities that are told of one prompt: of its tokens, and of the candidates for their places."""

EXPECTED_DIMENSIONS = 1024
"""Of a vector whose model has not said how many it gives. Counted until the end; then what it has."""
EXPECTED_CLASSES = 16
"""Likewise, of a classification model; most have fewer."""


class Operation(StrEnum):
    """What is asked of the model. Values are OpenTelemetry's `gen_ai.operation.name`, which lacks the last five.

    `SCORE` is by cosines of an embedding model, `RERANK` by a cross-encoder.
    """

    CHAT = "chat"
    TEXT_COMPLETION = "text_completion"
    EMBEDDINGS = "embeddings"
    SCORE = "score"
    RERANK = "rerank"
    CLASSIFY = "classify"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"


ModelOperation = Literal[Operation.CHAT, Operation.EMBEDDINGS, Operation.RERANK, Operation.CLASSIFY]
"""What a model is for. It may answer other operations too."""

ANSWERED: dict[ModelOperation, tuple[Operation, ...]] = {
    Operation.CHAT: (
        Operation.CHAT,
        Operation.TEXT_COMPLETION,
        Operation.TOKENIZE,
        Operation.DETOKENIZE,
    ),
    Operation.EMBEDDINGS: (Operation.EMBEDDINGS, Operation.SCORE),
    Operation.RERANK: (Operation.RERANK,),
    Operation.CLASSIFY: (Operation.CLASSIFY,),
}
"""What models of each kind answer."""


class Priority(StrEnum):
    """Order of service between waiting jobs of one model; see docs/protocol.md for ageing."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
    BATCH = "batch"
    """Of lines of batches alone: no request may ask for it."""


class OnDisconnect(StrEnum):
    """What becomes of a job when nobody reads its stream any more."""

    CONTINUE = "continue"
    CANCEL = "cancel"


class OnWorkerLoss(StrEnum):
    """What becomes of a stream whose worker died and that cannot go on exactly where it stopped."""

    FAIL = "fail"
    RESTART = "restart"


class Status(StrEnum):
    """Where a job stands. The last four are terminal: a job reaches exactly one of them."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        """Return whether a job in this status has ended."""
        return self not in (Status.QUEUED, Status.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen, in vLLM's words. None leaves the choice to the model's own defaults.

    Attributes:
        adapts_bounds: a `max_tokens` over what the context has room for is cut to it, and a `thinking_token_budget` for
            a model without reasoning is left out; else such a request is refused.
        include_stop_str_in_output: the answer ends after the stop string, or the stop token's text, not before it.
        structured_outputs: one of `json`, `json_object`, `regex`, `choice` and `grammar`, as vLLM takes them; an engine
            may make a `structural_tag` of tools.
        thinking_token_budget: the most tokens of reasoning.
        logprobs: how many of the likeliest tokens are told beside each one that was chosen; None tells nothing.
        structures_reasoning: the structured output has the reasoning in it; else it begins after that.
        return_tokens_as_token_ids: there, tokens are told as `token_id:<id>`.
        max_tokens: 0 for none at all: only the prompt is asked for.
    """

    max_tokens: int | None = None
    adapts_bounds: bool = False
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    bad_words: tuple[str, ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    structured_outputs: dict[str, Any] | None = None
    logprobs: int | None = None
    thinking_token_budget: int | None = None
    return_tokens_as_token_ids: bool = False
    structures_reasoning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """How a prompt is made of what was given, and what is told of it; in vLLM's words.

    Attributes:
        add_special_tokens: None for the usual: plain prompts get the model's, chats what their template writes.
        truncate_prompt_tokens: keep so many of its last tokens, of `classify` its first; -1 for what fits.
        echo: tell its text; of `tokenize`, that of each token.
        return_token_ids: tell its ids.
        prompt_logprobs: tell its tokens' log probabilities, and those of so many of the likeliest in their place.
    """

    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = None
    echo: bool = False
    return_token_ids: bool = False
    prompt_logprobs: int | None = None

    @property
    def tells_prompt(self) -> bool:
        """Whether anything of it is told."""
        return self.echo or self.return_token_ids or self.prompt_logprobs is not None


class InputType(StrEnum):
    """Which of the model's own prompts goes before an input, where the model has any."""

    QUERY = "query"
    PASSAGE = "passage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """What an embedding model is asked.

    Attributes:
        inputs: texts, or token ids of the model.
        queries: set where scores are asked for: one for all inputs, or one for each.
        input_type: of the inputs; `queries` are queries.
        dimensions: of each vector; None for all that the model has.
    """

    inputs: tuple[str | tuple[int, ...], ...]
    queries: tuple[str, ...] = ()
    input_type: InputType | None = None
    dimensions: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One accepted request.

    Exactly one of `messages`, `prompt`, `prompts` and `embedding` is given; a prompt is text or token ids. What is to
    be tokenised, or turned back into text, is a prompt or messages; the answer to the first is a JSON array, as text.

    Attributes:
        channel_id: the job's name everywhere, and the client's handle to its stream.
        prompts: several, each with answers of its own.
        prompting: how the prompt is made, and what is told of it.
        n: answers to each prompt, or to the chat.
        index: of a job that is one of several answers to a prompt: which.
        chat_template_kwargs: what the model's chat template is told beside the messages, by the names that it knows.
        chat: how the messages are to be answered.
        key_id: whose request it is; jobs of one key share a lane in the queue.
        deadline_s: seconds after acceptance at which the job expires.
        log_ttl_s: seconds that the event log outlives the job's end.
        result_ttl_s: seconds that state and result outlive the job's end; at least `log_ttl_s`.
    """

    channel_id: str
    model: str
    key_id: str
    operation: Operation
    messages: tuple[Message, ...] | None = None
    prompt: str | tuple[int, ...] | None = None
    prompts: tuple[str | tuple[int, ...], ...] = ()
    prompting: PromptOptions = field(default_factory=PromptOptions)
    n: int = 1
    index: int = 0
    embedding: Embedding | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    chat: ChatOptions = field(default_factory=ChatOptions)
    sampling: Sampling = field(default_factory=Sampling)
    priority: Priority = Priority.NORMAL
    on_disconnect: OnDisconnect = OnDisconnect.CONTINUE
    on_worker_loss: OnWorkerLoss = OnWorkerLoss.FAIL
    deadline_s: float
    log_ttl_s: float
    result_ttl_s: float

    @property
    def answers(self) -> int:
        """How many answers it has. Each takes a place, at a worker and of its key's."""
        return self.n * max(1, len(self.prompts))

    def one(self, index: int) -> Self:
        """Return the job of this answer alone. As in vLLM, each has a seed of its own, if any is given."""
        if self.answers == 1:
            return self
        which, index = divmod(index, self.n)
        prompt = self.prompts[which] if self.prompts else self.prompt
        sampling = self.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + index)
        return replace(self, prompt=prompt, prompts=(), n=1, index=index, sampling=sampling)

    @property
    def prompt_logprobs(self) -> int | None:
        """How many candidates are told of each token of the prompt: by the first answer to it, for all."""
        return None if self.index else self.prompting.prompt_logprobs

    @property
    def images(self) -> int:
        """How many images its messages have."""
        return sum(1 for _ in images_of(self.messages or ()))

    @property
    def beginnings(self) -> tuple[str, ...]:
        """Names of what its prompt begins with, the longest first; empty for all but chats."""
        if self.messages is None:
            return ()
        return beginnings_of(self.messages, self.chat.tools)

    @property
    def conversation(self) -> Chat | None:
        """What a chat's engine needs; None for other operations."""
        if self.messages is None:
            return None
        return Chat(self.messages, self.chat_template_kwargs or {}, self.chat)

    @property
    def expected_result_bytes(self) -> int:
        """What its vectors, scores or log probabilities will take. Nothing for text alone, which grows with the log."""
        asked = self.embedding
        if asked is not None:
            expected = EXPECTED_DIMENSIONS
            if self.operation is Operation.CLASSIFY:
                expected = EXPECTED_CLASSES
            dimensions = 1 if asked.queries else asked.dimensions or expected
            return 4 * len(asked.inputs) * dimensions
        of_prompts = 0
        if self.prompting.prompt_logprobs is not None:
            of_prompts = max(1, len(self.prompts)) * MOST_PROMPT_LOGPROBS * LOGPROB_BYTES
        if self.sampling.logprobs is None:
            return of_prompts
        tokens = self.sampling.max_tokens or EXPECTED_TOKENS
        return of_prompts + self.answers * tokens * (1 + self.sampling.logprobs) * LOGPROB_BYTES


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's `Idempotency-Key`, hashed, and the hash of the body it came with."""

    key_hash: str
    body_hash: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the queue says of a job it has taken in.

    Attributes:
        channel_id: the job's channel; an earlier job's where the same `Idempotency-Key` was seen.
        status: where that job stands now.
        queue_position: 1 for the next to be taken; an upper bound; 0 when no longer waiting.
        estimated_wait_s: position over the measured service rate; None while nothing was measured.
        duplicate: True where this call changed nothing because the job was already there.
        buckets: what its key has used of its limits now, where it has any.
    """

    channel_id: str
    status: Status
    queue_position: int
    estimated_wait_s: float | None
    duplicate: bool = False
    buckets: Buckets | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to append to a channel: valid while no later take has raised the fence."""

    channel_id: str
    fence: int


@dataclass(frozen=True, slots=True)
class Interrupted:
    """What an earlier holder's engine ran, of a job whose log holds tokens already.

    Attributes:
        prompts: the ids of each prompt, as that engine was given it; of several, those that were begun have any.
        model_revision: the weights that it ran.
    """

    prompts: tuple[tuple[int, ...], ...]
    model_revision: str


@dataclass(frozen=True, slots=True)
class TakenJob:
    """A job in a worker's hands.

    Attributes:
        lease: what the worker shows at every step.
        tail: how many events the channel's log already holds.
        failures: crashes charged to this job.
        suspect: it may have killed a worker, and is run alone.
        preempted: how often its place was handed on to another key.
        deadline_in_s: seconds left until it expires, when it was taken.
        queued_s: seconds between acceptance and this take.
        interrupted: set where an earlier holder already published tokens.
    """

    job: Job
    lease: Lease
    tail: int
    failures: int
    deadline_in_s: float
    queued_s: float
    interrupted: Interrupted | None = None
    suspect: bool = False
    preempted: int = 0


@dataclass(frozen=True, slots=True)
class Take:
    """The answer to one take.

    Attributes:
        jobs: what the worker holds now.
        make_way: a job that must run alone waits for this worker to be idle; until then it gets nothing new.
        left: jobs wait that are more than this worker's share; where nobody else takes them, it may.
        left_at_home: jobs were left to the workers that had their beginnings; soon anyone may take them.
        preempted: channels of offered jobs that wait again; `jobs` came in their places.
    """

    jobs: tuple[TakenJob, ...]
    make_way: bool = False
    left: bool = False
    left_at_home: bool = False
    preempted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChannelState:
    """What is known of a channel at one instant, for those who poll.

    Attributes:
        tail: number of events ever appended.
        text: the whole answer, once the job has ended.
        outcome: the terminal event's encoded line, once the job has ended.
        accepted_at_s, started_at_s, finished_at_s: Redis's clock, seconds since the epoch.
        replayed_as: the channel on which an operator had the request run again, if one did.
    """

    channel_id: str
    model: str
    key_id: str
    operation: Operation
    status: Status
    on_disconnect: OnDisconnect
    queue_position: int
    estimated_wait_s: float | None
    tail: int
    accepted_at_s: float
    started_at_s: float | None
    finished_at_s: float | None
    text: str | None
    outcome: bytes | None
    replayed_as: str | None = None


class StopReason(StrEnum):
    """Why a job is stopped before its end."""

    CLIENT = "client"
    DISCONNECT = "disconnect"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the queue says of a lease when its holder appends or renews.

    Attributes:
        held: False once another take has raised the fence or the job has ended: stop, say nothing more.
        tail: events in the log; smaller than the holder's own count where Redis came back with less.
        stop: set where the job is to be stopped and ended by its holder.
    """

    held: bool
    tail: int = 0
    stop: StopReason | None = None


@dataclass(frozen=True, slots=True)
class Append:
    """Events a holder adds to its channel's log.

    Attributes:
        first_seq: number of the first line; lines whose number the log already has are skipped.
        lines: encoded events (see `relais_common.queue.codec`).
        emits: True where a line carries tokens: from then on a crash is no longer charged to the job.
    """

    lease: Lease
    first_seq: int
    lines: tuple[bytes, ...]
    emits: bool = True


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How much of a model's work waits and runs."""

    waiting: int
    running: int


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What a worker says of itself at each heartbeat; one that serves several models says it of each.

    Attributes:
        not_ready: why it can run nothing now, though it lives; None where it can.
        parent: the model that this one is an adapter of, if it is one.
        supports_images: None if unknown.
    """

    worker_id: str
    model: str
    capacity: int
    running: int
    draining: bool = False
    max_model_len: int | None = None
    kv_cache_usage: float | None = None
    not_ready: str | None = None
    parent: str | None = None
    supports_images: bool | None = None
