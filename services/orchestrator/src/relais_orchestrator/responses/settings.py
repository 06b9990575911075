"""Settings of stored responses."""

from __future__ import annotations

from dataclasses import dataclass

from relais_common.runtime import environ
from relais_common.runtime.environ import Environ

DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseSettings:
    """Whether responses are stored, and their bounds.

    Attributes:
        store: whether a response is stored whose request does not say.
        ttl_s: how long after its end.
        max_bytes: of what is stored with a response beside its answer.
        max_chain: responses that one may go on from, through `previous_response_id`.
        max_chain_bytes: of the input and answers of these.
    """

    store: bool
    ttl_s: float
    max_bytes: int
    max_chain: int
    max_chain_bytes: int


def read_response_settings(env: Environ) -> ResponseSettings:
    """Read `RESPONSES_*`. Raises SettingsError."""
    return ResponseSettings(
        store=environ.flag(env, "RESPONSES_STORE", True),
        ttl_s=DAY_S * environ.number(env, "RESPONSES_TTL_DAYS", 30, at_least=0.001, at_most=20_000),
        # With the answer it must fit into a document of 16 MiB.
        max_bytes=environ.integer(
            env, "RESPONSES_MAX_BYTES", 4 << 20, at_least=1024, at_most=8 << 20
        ),
        max_chain=environ.integer(env, "RESPONSES_MAX_CHAIN", 100, at_least=1, at_most=2048),
        max_chain_bytes=environ.integer(
            env, "RESPONSES_MAX_CHAIN_BYTES", 4 << 20, at_least=1024, at_most=64 << 20
        ),
    )
