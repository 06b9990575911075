"""The attacks, in small: a stack stands them, victims are served, and every figure is there."""

from __future__ import annotations

import pytest

from benchmarks.attack import Times, attack
from benchmarks.attacking.attacks import ATTACKS
from benchmarks.attacking.report import Found
from benchmarks.attacking.victim import KINDS

# Attacks last for seconds, in which victims are to be served.
pytestmark = [pytest.mark.slow, pytest.mark.realtime, pytest.mark.timeout(900)]

SHORT = Times(attack_s=2.0, before_s=1.0, busy_s=1.0, after_s=2.0, settle_s=3.0)


async def run(*names: str) -> list[Found]:
    found = await attack([ATTACKS[name] for name in names], SHORT, pace=5)
    assert [one.name for one in found] == list(names)
    return found


async def test_an_attack_is_answered_and_victims_are_served() -> None:
    (found,) = await run("refused")
    assert found.got["404"] > 0
    assert found.errors == {}
    assert found.ended == []
    assert all(found.during[kind].count > 0 for kind in KINDS)
    assert {"front-0", "front-1", "worker-0", "vectors", "redis"} <= found.memory.keys()
    assert all(one.peak >= one.before > 0 for one in found.memory.values())
    assert found.lag_s.keys() >= {"front-0", "worker-0"}


async def test_connections_that_are_held_are_counted_at_the_end() -> None:
    (found,) = await run("silent-sockets")
    assert found.got["closed"] + found.got["left open"] > 0


async def test_a_hostile_server_is_asked_and_not_judged() -> None:
    (found,) = await run("refused-for-ever")
    assert found.got.total() > 0
    assert found.ended == []
    assert "worker-0" in found.memory
    assert "upstream" not in found.memory
