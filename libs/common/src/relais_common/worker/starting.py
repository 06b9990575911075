"""Reports to the queue that the engine has a job."""

from __future__ import annotations

from collections.abc import Sequence

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.ports import JobSource
from relais_common.runtime.backoff import Backoff
from relais_common.worker.held import HeldJob


async def note_start(
    source: JobSource,
    held: HeldJob,
    *,
    prompts: Sequence[Sequence[int]],
    model_revision: str,
    newest: int = 0,
) -> None:
    """Call `JobSource.start` until it succeeds; the engine continues while the store is unavailable.

    Args:
        newest: the prompt that the engine has accepted now.
    """
    backoff = Backoff()
    while True:
        try:
            verdict = await source.start(held.lease, prompts=prompts, model_revision=model_revision)
        except StoreUnavailable:
            await backoff.pause()
            continue
        if verdict.held:
            held.metrics.started(len(prompts[newest]))
        held.note_started(verdict.tail)
        held.heed(verdict)
        return
