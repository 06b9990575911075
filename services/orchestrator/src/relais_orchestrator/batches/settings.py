"""Settings of batches."""

from __future__ import annotations

from dataclasses import dataclass

from relais_common.jobs.channels import MAX_BATCH_LINES
from relais_common.runtime import environ
from relais_common.runtime.environ import Environ


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """Bounds on batches.

    Attributes:
        inflight: lines of one key that are in the queue of one model.
        lease_s: how long a silent orchestrator keeps a batch.
        max_per_key: batches of a key that have not ended.
        max_lines: of one batch.
    """

    inflight: int
    lease_s: float
    max_per_key: int
    max_lines: int


def read_batch_settings(env: Environ) -> BatchSettings:
    """Read `BATCH_INFLIGHT`, `BATCH_LEASE_S`, `MAX_BATCHES_PER_KEY` and `MAX_BATCH_LINES`. Raises SettingsError."""
    return BatchSettings(
        inflight=environ.integer(env, "BATCH_INFLIGHT", 512, at_least=1, at_most=10_000),
        lease_s=environ.number(env, "BATCH_LEASE_S", 15, at_least=0.5, at_most=600),
        max_per_key=environ.integer(env, "MAX_BATCHES_PER_KEY", 20, at_least=1),
        max_lines=environ.integer(
            env, "MAX_BATCH_LINES", 50_000, at_least=1, at_most=MAX_BATCH_LINES
        ),
    )
