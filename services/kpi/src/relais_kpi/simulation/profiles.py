"""Profiles of simulated traffic: invented models, clients, and days of a public service."""

from __future__ import annotations

from dataclasses import dataclass

from relais_common.jobs.job import Operation, Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """The behaviour of a model.

    Attributes:
        weight: its share of the requests, relative to the others'.
        prompt_tokens, answer_tokens: medians; lengths have a heavy tail.
        prefill_tokens_per_s, tpot_s: speeds of prompt and answer when nothing else runs.
    """

    name: str
    operation: Operation
    weight: float
    prompt_tokens: float
    answer_tokens: float
    prefill_tokens_per_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One key.

    Attributes:
        weight: its share of the requests, relative to the others'.
        nightly: whether it is a batch that runs at night.
        impatience: share of its requests that it cancels.
    """

    key_id: str
    weight: float
    models: tuple[int, ...]
    priority: Priority = Priority.NORMAL
    nightly: bool = False
    impatience: float = 0.02


MODELS = (
    ModelProfile(
        name="assistant-24b",
        operation=Operation.CHAT,
        weight=5,
        prompt_tokens=420,
        answer_tokens=190,
        prefill_tokens_per_s=9_000,
        tpot_s=0.021,
    ),
    ModelProfile(
        name="assistant-70b",
        operation=Operation.CHAT,
        weight=2,
        prompt_tokens=900,
        answer_tokens=310,
        prefill_tokens_per_s=3_500,
        tpot_s=0.043,
    ),
    ModelProfile(
        name="drafts-7b",
        operation=Operation.TEXT_COMPLETION,
        weight=1,
        prompt_tokens=160,
        answer_tokens=90,
        prefill_tokens_per_s=16_000,
        tpot_s=0.009,
    ),
    ModelProfile(
        name="all-MiniLM-L6-v2",
        operation=Operation.EMBEDDINGS,
        weight=3,
        prompt_tokens=220,
        answer_tokens=0,
        prefill_tokens_per_s=12_000,
        tpot_s=0,
    ),
)

CLIENTS = (
    Client(key_id="citizen-portal", weight=9, models=(0, 1), priority=Priority.HIGH),
    Client(key_id="helpdesk", weight=6, models=(0, 1, 3)),
    Client(key_id="mobile-app", weight=5, models=(0,), impatience=0.07),
    Client(key_id="search", weight=5, models=(3,)),
    Client(key_id="letters", weight=2.5, models=(1, 2)),
    Client(key_id="nightly-batch", weight=4, models=(0, 3), priority=Priority.LOW, nightly=True),
    Client(key_id="research", weight=1.2, models=(0, 1, 2, 3), priority=Priority.LOW),
    Client(key_id="intranet", weight=2, models=(0, 3)),
    Client(key_id="town-hall-lyon", weight=0.8, models=(0,)),
    Client(key_id="town-hall-lille", weight=0.6, models=(0,)),
    Client(key_id="translation", weight=1.5, models=(2,)),
    Client(key_id="trial", weight=0.2, models=(0, 2), impatience=0.15),
)

BY_HOUR = (
    *(0.16, 0.11, 0.08, 0.07, 0.08, 0.14, 0.30, 0.58, 0.92, 1.22, 1.34, 1.26),
    *(0.98, 1.10, 1.30, 1.28, 1.14, 0.92, 0.66, 0.52, 0.46, 0.40, 0.32, 0.23),
)
"""Weights of people's requests, by hour of the day in UTC."""

BY_WEEKDAY = (1.12, 1.08, 1.05, 1.03, 0.92, 0.38, 0.32)
"""Weights by day of the week, from Monday."""

NIGHT_HOURS = frozenset({0, 1, 2, 3, 4})
