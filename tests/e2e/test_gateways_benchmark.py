"""The benchmark of gateways, in small: the upstream alone and Relais deliver every answer and every token."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.forwarding.report import BARE, RELAIS
from benchmarks.forwarding.sides import Gateways
from benchmarks.gateways import PARTS, Load, measure

pytestmark = pytest.mark.timeout(900)


async def test_every_answer_and_every_token_comes(tmp_path: Path) -> None:
    from benchmarks.forwarding import plot

    # The clients check; what they miss is in a step's errors, or fails the run.
    load = Load(
        rounds=1,
        clients=3,
        requests=2,
        tokens=[1, 8],
        steps=[5],
        tokens_per_s=20,
        seconds=0.5,
        slow_steps=[4],
        slow_tokens_per_s=4,
        slow_seconds=1,
    )
    found = await measure(load, Gateways(litellm=None, nginx=None, streams=5), PARTS)

    assert list(found.latency[0]) == [BARE, RELAIS]
    assert [len(found.rates[tokens][0][RELAIS].latencies_s) for tokens in (1, 8)] == [6, 6]
    for pace, size, tokens in ((20, 5, 10), (4, 4, 4)):
        for name in (BARE, RELAIS):
            [step] = found.ladders[pace][name]
            assert step.errors == ()
            assert step.frames == size * tokens
    assert set(found.ladders[20][RELAIS][0].cpu_us) == {
        *("orchestrator", "worker", "redis"),
        *("upstream", "client"),
    }
    plot.draw(tmp_path / "ladder.svg", found.ladders[20], 20)
    assert "frames/s delivered" in (tmp_path / "ladder.svg").read_text()
