"""A worker's report on a model that it serves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """The status of one model.

    Attributes:
        capacity: jobs that it currently runs at once.
        not_ready: why it cannot run jobs; None if it can.
        parent: the model that this one is an adapter of, if it is one.
        supports_images: None if unknown.
    """

    capacity: int
    max_model_len: int | None = None
    kv_cache_usage: float | None = None
    not_ready: str | None = None
    parent: str | None = None
    supports_images: bool | None = None
