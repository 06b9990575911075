"""Cached prefixes: what several workers with a cache each find there, beside one worker with all of it.

Simulated, with and without regard to which worker had the beginning of a prompt last; and real, on four vLLM workers.
Bars: four workers find 0.9 of what one finds, and no worker reads more than 1.25 of an even share.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.figures import Bar, quantile_ms
from benchmarks.prefixing import fleet, simulation
from benchmarks.prefixing.simulation import PLACES, TOKEN_S, Asked

HELP = "prefix caches of several workers, simulated and real"
PARTS = ("simulated", "vllm")
WORKERS = 4
LOADS = (0.3, 0.7, 0.95)
MIN_CACHED = 0.9
MAX_UNEVEN = 1.25


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--requests", type=int, default=3000, help="of each simulation")
    parser.add_argument("--seconds", type=float, default=40, help="of each fleet's traffic")


async def run(*, parts: list[str], requests: int, seconds: float) -> bool:
    """Print what was found, and the bars of the real fleet. False where one is missed."""
    if "simulated" in parts:
        _simulate(requests)
    bars = []
    if "vllm" in parts:
        one = await fleet.measure(workers=1, seconds=seconds)
        four = await fleet.measure(workers=WORKERS, seconds=seconds)
        bars = list(_judge(one, four))
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for bar in bars:
        print(bar)
    return all(bar.met for bar in bars)


@dataclass(frozen=True, slots=True)
class _Traffic:
    """Requests of one kind.

    Attributes:
        make: returns so many, that come so often.
        cache_tokens: of each worker.
        output: tokens of a mean answer.
        turns: requests that follow each other.
    """

    make: Callable[[int, float], Iterator[tuple[float, Asked]]]
    cache_tokens: int
    output: int
    turns: int = 1


_TRAFFIC = {
    "16 system prompts, caches of 6": _Traffic(simulation.shared_prompts, 6_000, 35),
    "conversations, caches of 10": _Traffic(simulation.conversations, 20_000, 50, 8),
    "conversations, caches of 30": _Traffic(simulation.conversations, 60_000, 50, 8),
}


def _simulate(requests: int) -> None:
    print(
        "simulated, four workers: cached tokens, of what one worker with all places and caches finds\n"
        "load                                     in turn  at home   p99 of waits, ms  busiest worker, of even"
    )
    for name, kind in _TRAFFIC.items():
        for load in LOADS:
            per_s = WORKERS * PLACES / (kind.output * TOKEN_S + 0.05) * load / kind.turns
            arrivals = list(kind.make(requests // kind.turns, per_s))
            one = simulation.play(
                arrivals,
                workers=1,
                cache_tokens=WORKERS * kind.cache_tokens,
                places=WORKERS * PLACES,
            )
            blind, homes = (
                simulation.play(
                    arrivals, workers=WORKERS, cache_tokens=kind.cache_tokens, homes=aware
                )
                for aware in (False, True)
            )
            print(
                f"{load:4.0%} {name:34}  {blind.cached / one.cached:7.2f}  {homes.cached / one.cached:7.2f}"
                f"   {blind.wait_p99_ms:7.0f} {homes.wait_p99_ms:7.0f}"
                f"   {blind.unevenness:8.2f} {homes.unevenness:8.2f}",
                flush=True,
            )


def _judge(one: fleet.Fleet, four: fleet.Fleet) -> Iterator[Bar]:
    for name, found in (("one worker", one), ("four workers", four)):
        told = ", ".join(f"{quantile_ms(found.first_s, share):.1f}" for share in (0.5, 0.95, 0.99))
        print(
            f"{name}: {found.cached:.1%} of {sum(found.prompt_tokens):,.0f} prompt tokens cached;"
            f" first token p50, p95, p99 ms: {told} ({len(found.first_s)} chats)"
        )
    ratio = four.cached / one.cached
    yield Bar("cached tokens, of one worker's", f"{ratio:.2f}", ratio >= MIN_CACHED)
    uneven = four.unevenness
    yield Bar(
        "prompt tokens of the busiest worker, of an even share",
        f"{uneven:.2f}",
        uneven <= MAX_UNEVEN,
    )
