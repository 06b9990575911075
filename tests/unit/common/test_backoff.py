"""Pauses between tries grow, end at a cap, and never keep step with another process's."""

from __future__ import annotations

import asyncio

import pytest

from relais_common.runtime.backoff import Backoff


@pytest.fixture
def slept_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each pause was to be; none is waited for."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return pauses


async def test_pauses_double_up_to_the_cap(slept_s: list[float]) -> None:
    backoff = Backoff(initial_s=0.1, longest_s=1.0)
    for _ in range(20):
        await backoff.pause()
    for pause_s, longest_s in zip(slept_s, [0.1, 0.2, 0.4, 0.8, *[1.0] * 16], strict=True):
        assert longest_s / 2 <= pause_s <= longest_s


async def test_two_that_fail_together_do_not_try_again_together(slept_s: list[float]) -> None:
    for _ in range(50):
        await Backoff().pause()
    assert len(set(slept_s)) == 50


async def test_success_makes_the_next_pause_short_again(slept_s: list[float]) -> None:
    backoff = Backoff(initial_s=0.1, longest_s=10.0)
    for _ in range(8):
        await backoff.pause()
    backoff.reset()
    await backoff.pause()
    assert slept_s[-1] <= 0.1
