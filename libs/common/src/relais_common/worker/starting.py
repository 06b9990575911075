"""Reports to the queue that the engine has a job."""

from __future__ import annotations

from collections.abc import Sequence

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.ports import JobSource
from relais_common.runtime.backoff import Backoff
from relais_common.worker.held import HeldJob


async def note_start(
    source: JobSource, held: HeldJob, *, prompt_token_ids: Sequence[int], model_revision: str
) -> None:
    """Call `JobSource.start` until it succeeds; the engine continues while the store is unavailable."""
    backoff = Backoff()
    while True:
        try:
            verdict = await source.start(
                held.lease, prompt_token_ids=prompt_token_ids, model_revision=model_revision
            )
        except StoreUnavailable:
            await backoff.pause()
            continue
        if verdict.held:
            held.metrics.started(len(prompt_token_ids))
        held.note_started(verdict.tail)
        held.heed(verdict)
        return
