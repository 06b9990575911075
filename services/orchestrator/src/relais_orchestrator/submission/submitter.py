"""Turns validated requests into queued jobs."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import structlog

from relais_common.config.api_keys import COSTLY_STRUCTURES, ApiKey
from relais_common.jobs.channels import channel_model, channel_shard, new_channel_id, queue_of
from relais_common.jobs.errors import (
    Draining,
    InvalidRequest,
    KeyStorageFull,
    PayloadTooLarge,
    PriorityForbidden,
    QueueFull,
    RelaisError,
    StorageFull,
    StoreUnavailable,
    StructureForbidden,
    TooManyInFlight,
    TracesFull,
)
from relais_common.jobs.job import (
    ANSWERED,
    Accepted,
    Idempotency,
    Job,
    ModelOperation,
    OnDisconnect,
    OnWorkerLoss,
    Operation,
    Priority,
    Sampling,
    StopReason,
)
from relais_common.jobs.records import ApiRecord
from relais_common.jobs.traces import Tracing
from relais_common.queue.ports import JobIntake
from relais_common.runtime.lifecycle import cancel_and_wait
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.access.quotas import quota_of
from relais_orchestrator.settings import Limits
from relais_orchestrator.streams.drain import Drain
from relais_orchestrator.streams.watcher import Watcher
from relais_orchestrator.submission.catalogue import Catalogue
from relais_orchestrator.submission.drafts import Draft
from relais_orchestrator.submission.spreading import Spreader, is_pinned

log = structlog.get_logger(__name__)

IDEMPOTENCY_KEY_FORM = r"^[!-~]([ -~]{0,254}[!-~])?$"
_IDEMPOTENCY_KEY = re.compile(IDEMPOTENCY_KEY_FORM)
FAREWELL_TIMEOUT_S = 2.0
DELIVERED_TTL_S = 60.0
"""How long an answer that its client waited for is kept: long enough for a retry, or a restart of Redis."""
LINE_TTL_S = 120.0
"""How long the result of a batch's line is kept: long enough for another orchestrator to take the batch over."""
FULL = (QueueFull, TooManyInFlight, StorageFull, KeyStorageFull, TracesFull)
"""Refusals of a shard that another shard of the model need not share."""
_ORDER = tuple(Priority)
_WHAT: dict[ModelOperation, str] = {
    Operation.CHAT: "writes text: it is not an embedding model, a reranker or a classification model",
    Operation.EMBEDDINGS: "is an embedding model",
    Operation.RERANK: "is a reranker: send it to /v1/rerank or /v1/score",
    Operation.CLASSIFY: "is a classification model: send it to /v1/classify",
}


class Submitter:
    """Accepts drafts for the models that this deployment declares.

    Args:
        accepted: called for every job that was queued, or that already existed.
        watcher: reports that their clients are connected.
        spreader: chooses the shard of each request; every shard has its part of the model's bounds.
        tracing: trace content of every job; None if no traces are kept.
    """

    def __init__(
        self,
        queue: JobIntake,
        catalogue: Catalogue,
        limits: Limits,
        drain: Drain,
        accepted: Callable[[Job, Accepted], None],
        watcher: Watcher,
        spreader: Spreader,
        tracing: Tracing | None = None,
    ) -> None:
        self._spreader = spreader
        self._queue = queue
        self._catalogue = catalogue
        self._limits = limits
        self._drain = drain
        self._accepted = accepted
        self._watcher = watcher
        self._tracing = tracing

    async def accept(
        self, draft: Draft, *, caller: Caller, idempotency_key: str | None, body: bytes
    ) -> Accepted:
        """Queue the draft.

        Raises:
            ModelNotFound, PriorityForbidden, StructureForbidden, InvalidRequest, PayloadTooLarge, QueueFull,
                TooManyInFlight, RateLimited, StorageFull, KeyStorageFull, TracesFull, IdempotencyConflict, Draining:
                nothing was queued.
            StoreUnavailable: it is unknown whether the job was queued; only an `Idempotency-Key` makes a retry safe.
        """
        self._refuse_while_draining()
        model = self.check(draft, caller)
        highest = caller.may.max_priority
        if _ORDER.index(draft.priority) < _ORDER.index(highest):
            raise PriorityForbidden(
                f"priority: this key may ask for {highest} at most", param="priority"
            )
        kept_s = DELIVERED_TTL_S if draft.is_delivered else math.inf
        idempotency = _idempotency(idempotency_key, body)
        job = _job(
            draft,
            caller,
            new_channel_id(model),
            self._operation(model, draft),
            deadline_s=self._deadline_s(draft),
            log_ttl_s=min(self._limits.log_ttl_s, kept_s),
            result_ttl_s=min(self._limits.result_ttl_s, kept_s),
        )
        refused: RelaisError | None = None
        for shard in await self._shards_for(job, caller, idempotency):
            if shard != channel_shard(job.channel_id):
                job = replace(job, channel_id=new_channel_id(queue_of(model, shard)))
            try:
                accepted = await self._accept(job, caller.may, idempotency, draft.record)
                break
            except FULL as error:
                refused = refused or error
        else:
            assert refused is not None
            raise refused
        self._accepted(job, accepted)
        log.info(
            "request_accepted",
            channel_id=accepted.channel_id,
            model=model,
            key_id=caller.key_id,
            queue_position=accepted.queue_position,
            duplicate=accepted.duplicate,
        )
        return accepted

    async def _shards_for(
        self, job: Job, caller: Caller, idempotency: Idempotency | None
    ) -> list[int]:
        """Return the shards to try, one after the other while they are full."""
        name = None if idempotency is None else idempotency.key_hash
        if name is not None:
            for shard in self._spreader.shards_before(job.model, caller, name):
                if await self._queue.knows(queue_of(job.model, shard), job.key_id, name):
                    return [shard]
        return self._spreader.shards_for(job.model, caller, idempotency=name, messages=job.messages)

    async def _accept(
        self, job: Job, key: ApiKey, idempotency: Idempotency | None, record: ApiRecord | None
    ) -> Accepted:
        # Before the answer, which a node that hangs does not give: others get no more than their part meanwhile.
        self._spreader.note(job.model, channel_shard(job.channel_id))
        cancels = job.on_disconnect is OnDisconnect.CANCEL
        with self._watcher.accepting(job.channel_id) if cancels else nullcontext():
            return await self._enqueue(job, key, idempotency, record)

    def _part(self, model: str, most: int) -> int:
        """Return the part of a model's bound that each of its shards has."""
        return -(-most // self._spreader.count(model))

    def _tracing_of(self, model: str) -> Tracing | None:
        tracing = self._tracing
        if tracing is None or self._spreader.count(model) == 1:
            return tracing
        return replace(tracing, max_waiting=self._part(model, tracing.max_waiting))

    def _refuse_while_draining(self) -> None:
        if self._drain.started:
            raise Draining("this server is shutting down; try again", retry_after_s=1)

    def shards_of_lines(self, model: str, caller: Caller) -> list[int]:
        """Return the shards that lines of a new batch go to, in turn."""
        return self._spreader.shards_of_lines(model, caller)

    def check(self, draft: Draft, caller: Caller) -> str:
        """Return the model that the draft is for. Raises what `accept` raises for a draft that no wait would help."""
        model = self._catalogue.root_of(draft.model, caller)
        self._check_operation(model, draft)
        _check_structure(draft.sampling, caller.may)
        return model

    async def feed(
        self, draft: Draft, *, caller: Caller, channel_id: str, deadline_s: float, most: int
    ) -> Accepted:
        """Queue a line of a batch, unless it is there.

        Args:
            most: answers to lines of this key and model that may be unfinished.

        Raises:
            RelaisError: as `accept`.
        """
        self._refuse_while_draining()
        model = self.check(draft, caller)
        line = replace(
            draft,
            priority=Priority.BATCH,
            on_disconnect=OnDisconnect.CONTINUE,
            # Nobody has seen anything of its answer yet.
            on_worker_loss=OnWorkerLoss.RESTART,
        )
        job = _job(
            line,
            caller,
            channel_id,
            self._operation(model, draft),
            deadline_s=deadline_s,
            log_ttl_s=LINE_TTL_S,
            result_ttl_s=LINE_TTL_S,
        )
        quota = quota_of(caller.may, job, output_tokens=self._limits.reserved_output_tokens)
        accepted = await self._queue.enqueue(
            job,
            # A batch is one request.
            quota=replace(quota, requests_per_minute=None),
            # The other half is for those who wait for their answers.
            max_waiting=self._part(model, max(1, self._limits.max_waiting // 2)),
            max_inflight_per_key=max(most, job.answers),
            max_stored_bytes=self._part(model, self._limits.max_stored_bytes),
            tracing=self._tracing_of(model),
            record=draft.record,
            shards=self._spreader.count(model),
        )
        self._accepted(job, accepted)
        return accepted

    def _operation(self, model: str, draft: Draft) -> Operation:
        """Return what the draft asks of the model."""
        if draft.operation is not None:
            return draft.operation
        if draft.embedding is None:
            return Operation.TEXT_COMPLETION if draft.messages is None else Operation.CHAT
        if not draft.embedding.queries:
            return Operation.EMBEDDINGS
        reranks = self._catalogue.operation_of(model) is Operation.RERANK
        return Operation.RERANK if reranks else Operation.SCORE

    def _check_operation(self, model: str, draft: Draft) -> None:
        kind = self._catalogue.operation_of(model)
        if self._operation(model, draft) not in ANSWERED[kind]:
            raise InvalidRequest(f"{model!r} {_WHAT[kind]}", param="model", code="wrong_operation")
        most, embedding = self._limits.max_embedding_inputs, draft.embedding
        if embedding is None:
            return
        if len(embedding.inputs) > most:
            raise PayloadTooLarge(f"at most {most} inputs in one request", param=draft.inputs_field)
        if not (isinstance(embedding.inputs[0], str) or self._limits.accept_embedding_token_ids):
            raise InvalidRequest(
                "input: send texts. Token ids are refused (EMBEDDING_TOKEN_IDS), because those of another tokenizer "
                "than the model's own would give wrong vectors. LangChain's OpenAIEmbeddings sends texts with "
                "check_embedding_ctx_length=False",
                param="input",
                code="unsupported_value",
            )

    async def stop(self, channel_id: str) -> None:
        """Cancel a job whose reader has left. If this fails, the watch lease ends the job."""
        try:
            async with asyncio.timeout(FAREWELL_TIMEOUT_S):
                await self._queue.cancel(channel_id, StopReason.DISCONNECT)
        except (StoreUnavailable, TimeoutError):
            log.warning("cancel_failed", channel_id=channel_id)

    async def _enqueue(
        self,
        job: Job,
        key: ApiKey,
        idempotency: Idempotency | None,
        record: ApiRecord | None,
    ) -> Accepted:
        quota = quota_of(key, job, output_tokens=self._limits.reserved_output_tokens)
        most = key.concurrent_requests or self._limits.max_inflight_per_key
        if job.answers > most:
            raise InvalidRequest(
                f"n: this key may have {most} unfinished answers, and this request has {job.answers}",
                param="n",
            )
        enqueue = self._queue.enqueue(
            job,
            max_waiting=self._part(job.model, self._limits.max_waiting),
            max_inflight_per_key=most
            if is_pinned(key)
            else max(self._part(job.model, most), job.answers),
            quota=quota,
            max_stored_bytes=self._part(job.model, self._limits.max_stored_bytes),
            idempotency=idempotency,
            tracing=self._tracing_of(job.model),
            watcher_id=self._watcher.watcher_id,
            record=record,
            shards=self._spreader.count(job.model),
        )
        if idempotency is not None or job.on_disconnect is OnDisconnect.CONTINUE:
            return await enqueue
        # A client that leaves now never learnt its channel, so nobody will read it.
        enqueueing = asyncio.create_task(enqueue)
        try:
            return await asyncio.shield(enqueueing)
        except asyncio.CancelledError:
            try:
                # A cancel that overtakes the enqueue would find no job.
                await asyncio.wait({enqueueing}, timeout=FAREWELL_TIMEOUT_S)
                await self.stop(job.channel_id)
            finally:
                await cancel_and_wait(enqueueing)
            raise

    def _deadline_s(self, draft: Draft) -> float:
        if draft.deadline_s is None:
            return min(self._limits.default_deadline_s, self._limits.max_deadline_s)
        if draft.deadline_s > self._limits.max_deadline_s:
            raise InvalidRequest(
                f"deadline_s: at most {self._limits.max_deadline_s:g} seconds", param="deadline_s"
            )
        return draft.deadline_s


def _check_structure(sampling: Sampling, key: ApiKey) -> None:
    """Raise StructureForbidden if the key may not use this kind of structured output."""
    for kind in sampling.structured_outputs or ():
        if kind in COSTLY_STRUCTURES and kind not in (key.structured_outputs or ()):
            param = f"structured_outputs.{kind}"
            raise StructureForbidden(f"{param}: this key may not use it", param=param)


def _job(
    draft: Draft,
    caller: Caller,
    channel_id: str,
    operation: Operation,
    *,
    deadline_s: float,
    log_ttl_s: float,
    result_ttl_s: float,
) -> Job:
    return Job(
        channel_id=channel_id,
        model=channel_model(channel_id),
        key_id=caller.key_id,
        operation=operation,
        messages=draft.messages,
        prompt=draft.prompts[0] if len(draft.prompts) == 1 else None,
        prompts=draft.prompts if len(draft.prompts) > 1 else (),
        n=draft.n,
        prompting=draft.prompting,
        embedding=draft.embedding,
        chat_template_kwargs=draft.chat_template_kwargs,
        chat=draft.chat,
        sampling=draft.sampling,
        priority=draft.priority,
        on_disconnect=draft.on_disconnect,
        on_worker_loss=draft.on_worker_loss,
        deadline_s=deadline_s,
        log_ttl_s=log_ttl_s,
        result_ttl_s=result_ttl_s,
    )


def _idempotency(key: str | None, body: bytes) -> Idempotency | None:
    if key is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequest(
            "Idempotency-Key: 1 to 256 printable ASCII characters", param="Idempotency-Key"
        )
    return Idempotency(
        key_hash=hashlib.sha256(key.encode()).hexdigest(),
        body_hash=hashlib.sha256(body).hexdigest(),
    )
