"""Runs batches that nobody holds, each under a lease, until its end or until another orchestrator has it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

import structlog

from relais_common.jobs.errors import (
    Draining,
    FileNotKnown,
    FilesUnavailable,
    InvalidRequest,
    KeyRevoked,
)
from relais_common.jobs.job import StopReason
from relais_common.runtime.lifecycle import cancel_and_wait, pause
from relais_orchestrator.batches.feeding import Feeder
from relais_orchestrator.batches.lines import input_lines, input_of
from relais_orchestrator.batches.merging import Merge
from relais_orchestrator.batches.pace import Pace
from relais_orchestrator.batches.parts import BatchParts
from relais_orchestrator.batches.store import Document
from relais_orchestrator.batches.validation import Validation, validate
from relais_orchestrator.files.store import StoredFile
from relais_orchestrator.metrics.batches import BatchMetrics

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
BEAT_S = 0.5
"""How often a holder extends its lease, and so hears of a cancel."""

MAX_HELD = 256
"""Batches that one orchestrator runs at once."""

REST_S = 60.0
"""How long a batch rests that has given its place to another."""


async def run_batches(parts: BatchParts, metrics: BatchMetrics) -> None:
    """Take batches for ever."""
    held: dict[asyncio.Task[None], HeldBatch] = {}
    metrics.held.read(lambda: len(held))
    async with asyncio.TaskGroup() as group:
        while True:
            batch = None
            holder = secrets.token_hex(8)
            # Batches that wait for their key's next day must not keep others from being looked at.
            is_full = len(held) >= MAX_HELD
            waiting = next((one for one in held.values() if is_full and one.waits_long), None)
            if not parts.shared.drain.started and (waiting is not None or not is_full):
                try:
                    batch = await parts.store.claim(holder, parts.endpoints)
                except FilesUnavailable:
                    log.debug("batches_not_looked_for")
            if batch is None:
                await pause(parts.store.created, LOOK_EVERY_S)
                parts.store.created.clear()
                continue
            if waiting is not None:
                waiting.give_way()
            held_batch = HeldBatch(parts, metrics, batch, holder)
            task = group.create_task(held_batch.run())
            held[task] = held_batch
            task.add_done_callback(held.pop)


class HeldBatch:
    """One batch under one lease."""

    def __init__(
        self,
        parts: BatchParts,
        metrics: BatchMetrics,
        batch: Document,
        holder: str,
    ) -> None:
        self._parts = parts
        self._metrics = metrics
        self._batch = batch
        self._batch_id: str = batch["_id"]
        self._holder = holder
        self._feeder: Feeder | None = None
        self._pace = Pace()
        self._is_cancelled = batch["status"] == "cancelling"
        self._expires_at: datetime = batch["expires_at"]
        self._working: asyncio.Task[None] | None = None
        self._rest_s = 0.0

    @property
    def waits_long(self) -> bool:
        """Whether another batch could make more of its place."""
        return self._rest_s == 0 and self._feeder is not None and self._feeder.waits_long

    def give_way(self) -> None:
        """Leave the batch, and let others go first for a while."""
        assert self._working is not None
        log.info("batch_gave_way", batch_id=self._batch_id)
        self._rest_s = REST_S
        self._working.cancel()

    async def run(self) -> None:
        """Work on the batch while its lease holds."""
        log.info("batch_taken", batch_id=self._batch_id, status=self._batch["status"])
        work = self._working = asyncio.create_task(self._work())
        try:
            await self._keep(work)
        finally:
            try:
                await cancel_and_wait(work)
                await self._release()
            except (FilesUnavailable, Draining) as error:
                log.info("batch_paused", batch_id=self._batch_id, code=error.code)
                await self._release()
            except Exception:
                # Its lease runs out, and then somebody tries again, until the completion window is over.
                log.exception("batch_crashed", batch_id=self._batch_id)

    async def _keep(self, work: asyncio.Task[None]) -> None:
        """Extend the lease until the work is done, the lease is lost, or this orchestrator drains."""
        lease_s = self._parts.shared.settings.batches.lease_s
        valid_until = time.monotonic() + lease_s
        while not work.done() and not self._parts.shared.drain.started:
            await asyncio.wait({work}, timeout=BEAT_S)
            began = time.monotonic()
            try:
                batch = await self._parts.store.renew(
                    self._batch_id, self._holder, self._progress()
                )
                if batch is not None and batch["status"] == "in_progress" and self._is_revoked():
                    batch = await self._parts.store.cancel(self._batch_id, key_id=batch["key_id"])
            except FilesUnavailable:
                if time.monotonic() <= valid_until:
                    continue
                batch = None
            if batch is None:
                if not work.done():
                    log.warning("batch_lease_lost", batch_id=self._batch_id)
                return
            valid_until = began + lease_s
            self._is_cancelled = self._is_cancelled or batch["status"] == "cancelling"
            self._expires_at = batch["expires_at"]
            self._stop_feeding()

    def _is_revoked(self) -> bool:
        try:
            self._parts.shared.key_ring.check_client(self._batch["key_id"])
        except KeyRevoked:
            return True
        return False

    def _progress(self) -> dict[str, Any]:
        feeder = self._feeder
        if feeder is None:
            return {}
        return {
            "counts.completed": feeder.completed,
            "counts.failed": feeder.failed,
            "requests_per_s": self._pace.note(feeder.completed + feeder.failed),
        }

    def _stop_feeding(self) -> None:
        """Stop feeding if the batch is cancelled, or its time is over."""
        if self._feeder is not None and self._is_cancelled:
            self._feeder.stop(StopReason.CLIENT)
        elif self._feeder is not None and time.time() >= self._expires_at.timestamp():
            self._feeder.stop(StopReason.DEADLINE)

    async def _work(self) -> None:
        if self._batch["status"] == "validating" and not await self._validate():
            return
        # One that was cancelled while it was validated has nothing in the queue.
        is_known = self._batch["endpoint"] in self._parts.endpoints
        if is_known and "last_line" in self._batch and self._batch["status"] != "finalizing":
            await self._feed()
        await self._end()

    async def _validate(self) -> bool:
        """Return whether the batch goes on."""
        endpoint = self._batch["endpoint"]
        try:
            if endpoint not in self._parts.endpoints:
                raise InvalidRequest("no server runs requests to this endpoint", param="endpoint")
            caller = self._parts.shared.key_ring.client(self._batch["key_id"])
            lines = self._lines(await input_of(self._parts.files, self._batch))
            found = await validate(self._parts, endpoint, caller, lines)
        except FileNotKnown:
            found = Validation()
            found.note(InvalidRequest("the input file was deleted", param="input_file_id"))
        except (InvalidRequest, KeyRevoked) as error:
            found = Validation()
            found.note(error)
        changes: dict[str, Any] = {"model": found.model}
        if found.errors:
            changes["errors"] = found.errors
        else:
            changes |= {"counts.total": found.total, "last_line": found.last_line}
            changes["shards"] = found.shards
        to = "failed" if found.errors else "in_progress"
        batch = await self._move(to, changes, when="validating")
        if batch is None:
            self._is_cancelled = True
            return True
        self._batch = batch
        if found.errors:
            self._note_end(batch)
        return not found.errors

    async def _feed(self) -> None:
        try:
            file = await input_of(self._parts.files, self._batch)
            try:
                await self._run_feeder(file)
            except KeyRevoked:
                await self._parts.store.cancel(self._batch_id, key_id=self._batch["key_id"])
                self._is_cancelled = True
                await self._run_feeder(file)
        except FileNotKnown:
            # Only somebody with access to the database can delete it now. What ran is still there.
            log.error("batch_input_lost", batch_id=self._batch_id)

    async def _run_feeder(self, file: StoredFile) -> None:
        self._feeder = Feeder(self._parts, self._batch, file)
        self._stop_feeding()
        await self._feeder.run()

    async def _end(self) -> None:
        """Write the files and give the batch its last status."""
        if self._batch["status"] == "in_progress":
            feeder, total = self._feeder, self._batch["counts"]["total"]
            is_whole = feeder is not None and feeder.completed + feeder.failed >= total
            changes = {"ends_as": "completed" if is_whole else "expired"}
            batch = await self._move("finalizing", changes, when="in_progress")
            if batch is None:
                self._is_cancelled = True
            else:
                self._batch = batch
        ends_as = "cancelled" if self._is_cancelled else self._batch.get("ends_as", "expired")
        files: dict[str, Any] = {}
        if "last_line" in self._batch:
            merge = Merge(self._parts, self._batch, ends_as)
            files = await merge.run()
        when = "cancelling" if self._is_cancelled else "finalizing"
        batch = await self._move(ends_as, files, when=when)
        if batch is not None:
            self._note_end(batch)
            await self._parts.store.drop_results(self._batch_id)

    async def _move(self, to: str, changes: Mapping[str, Any], *, when: str) -> Document | None:
        return await self._parts.store.move(self._batch_id, self._holder, to, changes, when=when)

    def _note_end(self, batch: Document) -> None:
        log.info("batch_ended", batch_id=self._batch_id, status=batch["status"], **batch["counts"])
        self._metrics.ended.of(batch["status"]).inc()
        for status in ("completed", "failed"):
            self._metrics.requests.of(status).inc(batch["counts"][status])

    async def _lines(self, file: StoredFile) -> AsyncIterator[tuple[int, bytes | None]]:
        async for line in input_lines(self._parts, file):
            if self._is_cancelled:
                return
            yield line

    async def _release(self) -> None:
        try:
            await self._parts.store.release(self._batch_id, self._holder, rest_s=self._rest_s)
        except FilesUnavailable:
            log.debug("batch_not_released", batch_id=self._batch_id)
