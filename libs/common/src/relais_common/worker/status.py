"""What a worker says of a model that it serves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """At one instant.

    Attributes:
        capacity: jobs it runs at once, as things stand.
        not_ready: why it can run none; None where it can.
    """

    capacity: int
    max_model_len: int | None = None
    kv_cache_usage: float | None = None
    not_ready: str | None = None
