"""Runs one job through a model. A job begun elsewhere continues where it stopped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection

import msgspec
import orjson
import structlog

from relais_common.jobs.errors import EngineRefused, NotResumable
from relais_common.jobs.events import Completed, Restarted, Terminal, Timings, Token, Usage
from relais_common.jobs.job import OnWorkerLoss, Operation
from relais_common.queue.ports import EventLog, JobSource
from relais_common.worker.held import HeldJob
from relais_common.worker.publisher import Publisher
from relais_llm_worker.answering import Answering
from relais_llm_worker.continuation import Logged, read_logged
from relais_llm_worker.model import Model

log = structlog.get_logger(__name__)

KEPT_PART = 16
"""One in so many places, and at least one where there are two, is not for a key whose jobs have all others for good."""

PROGRESS = 32
"""Tokens that the log gets of each answer of a preempted job, on average, before it may be preempted again."""


class GenerateHandler:
    """Runs chats and text completions, and tells what their tokens are.

    Attributes:
        generated_tokens: tokens generated so far, for all jobs.
    """

    def __init__(
        self, model: Model, source: JobSource, event_log: EventLog, publisher: Publisher
    ) -> None:
        self._model = model
        self._source = source
        self._log = event_log
        self._publisher = publisher
        self.generated_tokens = 0

    def room(self, held: int) -> int:
        room = self._model.room(held)
        # The last places are given when it is known what the others went to.
        before = self._most_unmovable - held
        return min(room, before) if before > 0 else room

    def enough_of(self, held: Collection[HeldJob]) -> Collection[str]:
        most = self._most_unmovable
        if sum(one.places for one in held) < most:
            return ()
        unmovable = Counter[str]()
        for one in held:
            if not self._can_continue(one):
                unmovable[one.job.key_id] += one.places
        return [key_id for key_id, count in unmovable.items() if count >= most]

    @property
    def _most_unmovable(self) -> int:
        """The most places for jobs of one key that cannot be preempted: others would wait until one of them ends."""
        capacity = self._model.status().capacity
        return capacity - max(1, capacity // KEPT_PART)

    def can_preempt(self, held: HeldJob) -> bool:
        if held.taken.preempted and held.logged_tokens < PROGRESS * held.job.answers:
            return False
        emitted = held.pieces > 0 or held.taken.interrupted is not None
        return not emitted or (held.tells_ids and self._can_continue(held))

    def _can_continue(self, held: HeldJob) -> bool:
        # A full worker asks this of all that it holds before each take.
        if held.can_continue is None:
            held.can_continue = self._model.can_continue(held.job)
        return held.can_continue

    async def handle(self, held: HeldJob) -> Terminal:
        if held.job.embedding is not None:
            raise EngineRefused(
                "this is not an embedding model",
                param="model",
                code="wrong_operation",
            )
        if held.job.operation in (Operation.TOKENIZE, Operation.DETOKENIZE):
            return await self._tell_tokens(held)
        try:
            return await self._run(held, await self._logged(held))
        except NotResumable as error:
            if held.job.on_worker_loss is OnWorkerLoss.FAIL:
                raise
            log.info("job_restarted", reason=error.message)
            held.add(Restarted(error.message))
            self._publisher.send(held)
            held.places = held.job.answers
            return await self._run(held, Logged())

    async def _tell_tokens(self, held: HeldJob) -> Completed:
        began_s = time.monotonic()
        if held.job.operation is Operation.TOKENIZE:
            tokens = await self._model.tokenize(held.job)
            # Orchestrators older than `token_strs` expect ids alone.
            told = tokens.tokens if tokens.token_strs is None else msgspec.structs.asdict(tokens)
            text = orjson.dumps(told).decode()
        else:
            text = await self._model.detokenize(held.job)
        held.add_last(Token(text, ()))
        timings = Timings(
            queue_s=round(held.taken.queued_s, 6),
            prefill_s=round(time.monotonic() - began_s, 6),
            decode_s=0.0,
        )
        return Completed("stop", Usage(0, 0), timings)

    async def _run(self, held: HeldJob, logged: Logged) -> Completed:
        answering = Answering(self._model, self._source, self._publisher, held, logged)
        try:
            return await answering.run()
        finally:
            self.generated_tokens += answering.generated_tokens

    async def _logged(self, held: HeldJob) -> Logged:
        """Return what earlier holders published of the job's answers, if anything."""
        if held.taken.interrupted is None:
            return Logged()
        return await read_logged(self._log, held.lease.channel_id, held.taken.tail)
