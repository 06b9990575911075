"""Every attack by its name, and the engine of the stack that it is aimed at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.attacking.attacker import Attacker
from benchmarks.attacking.attacks import (
    bodies,
    connections,
    engines,
    prompts,
    reading,
    slots,
    storing,
    upstreams,
)

Act = Callable[[Attacker], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Attack:
    """One of them.

    Attributes:
        engine: `deterministic`, `vllm` or `remote`.
        point: of the issue on isolation; empty for what it does not list.
    """

    name: str
    engine: str
    point: str
    act: Act

    @property
    def sends(self) -> str:
        """What it sends, in a line."""
        return (self.act.__doc__ or "").strip().partition("\n")[0]


def _attacks(engine: str, *acts: tuple[str, Act]) -> list[Attack]:
    return [Attack(act.__name__.replace("_", "-"), engine, point, act) for point, act in acts]


ATTACKS = {
    one.name: one
    for one in [
        *_attacks(
            "deterministic",
            ("A1", bodies.wrong_bodies),
            ("A1", bodies.wrong_bodies_without_a_model),
            ("A1", bodies.whole_floats),
            ("A3", bodies.compressed),
            ("", bodies.tiny_chunks),
            ("A4", connections.unread_vectors),
            ("A4", connections.unfinished_uploads),
            ("A4", connections.silent_sockets),
            ("", connections.odd_http),
            ("", connections.pipelined),
            ("B9", slots.long_requests),
            ("B9", slots.submit_and_cancel),
            ("C11", storing.fill_with_vectors),
            ("", storing.idempotency_keys),
            ("", reading.slow_streams),
            ("", reading.wrong_event_ids),
            ("", reading.lists_and_reports),
            ("", reading.document),
            ("", reading.guessed_tokens),
            ("", reading.names_as_labels),
            ("", reading.refused),
        ),
        *_attacks(
            "vllm",
            ("B6", engines.chained_grammar),
            ("B6", engines.nested_regex),
            ("B7", engines.expired_schemas),
            ("B8", prompts.long_prompts),
            ("B8", prompts.long_texts),
            ("", engines.many_biases),
            ("", engines.many_logprobs),
            ("", engines.many_stops),
        ),
        *_attacks(
            "remote",
            ("C12, D13", upstreams.false_usage),
            ("D13", upstreams.endless_answers),
            ("D13", upstreams.huge_chunks),
            ("D14", upstreams.refused_for_ever),
        ),
    ]
}
