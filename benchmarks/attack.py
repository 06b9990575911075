"""What one client can cost the others: attacks on a running stack, and victims who are measured meanwhile.

The stack runs as in production: two orchestrators, keys, workers. Victims have a key of their own, a process of their
own and a steady pace. An attack comes from other keys, or from none. A victim's p99 may pass what it was before by 100
ms and its fair share: what it waits for while the attackers' keys ask, as often as they can, for what anyone may ask
for. Memory must come back within a minute, no victim may see an error, and no process may end.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmarks.attacking.attacker import Attacker, attacker_of
from benchmarks.attacking.attacks import ATTACKS, Attack
from benchmarks.attacking.keys import ATTACKERS, VECTORS
from benchmarks.attacking.report import ALLOWED_BYTES, Found, Memory, Spread, spreads, summary, text
from benchmarks.attacking.stack import open_stack
from benchmarks.attacking.watch import Watch, watching

HELP = "what one client can cost the others"
FILES = 6000
REQUESTS_AT_ONCE = 8
"""Of each key that is busy and means no harm."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", choices=[[], *ATTACKS], help="default: all")
    add("--seconds", type=float, default=20, help="of each attack, at the most")
    add("--list", action="store_true", dest="list_only", help="name them, and end")
    add("--tree", type=Path, help="another checkout, whose services are attacked")
    add("--json", type=Path, dest="json_path", help="file for the figures as JSON")


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of each part; `settle_s` is the longest that memory may take to come back."""

    attack_s: float = 20.0
    before_s: float = 8.0
    busy_s: float = 10.0
    after_s: float = 8.0
    settle_s: float = 60.0


async def _ask_politely(attacker: Attacker, model: str) -> None:
    chat = {
        "model": model,
        "messages": [{"role": "user", "content": "The lamp in our street is broken."}],
        "max_tokens": 64,
    }
    vectors = {"model": VECTORS, "input": ["a text of some words"] * 8}
    # Large enough to start whatever an orchestrator keeps for large bodies.
    long_text = {"model": VECTORS, "input": "word " * 10_000}
    asks = [("/v1/chat/completions", chat), ("/v1/embeddings", vectors)] * 8
    asks.append(("/v1/embeddings", long_text))

    async def one(number: int) -> None:
        key = ATTACKERS[number % len(ATTACKERS)]
        path, body = asks[number % len(asks)]
        await attacker.send(path, body, key=key)

    await attacker.over_and_over(one, at_once=REQUESTS_AT_ONCE * len(ATTACKERS))


class Bench:
    """One stack, and what victims wait for on it while nobody attacks."""

    def __init__(self, watch: Watch, times: Times) -> None:
        self._watch = watch
        self._times = times
        self._busy: dict[str, Spread] = {}

    async def warm_up(self) -> None:
        """Measure the fair share."""
        began_s = time.monotonic()
        stack = self._watch.stack
        async with attacker_of(stack.urls, self._times.busy_s) as attacker:
            await _ask_politely(attacker, stack.model)
        end_s = time.monotonic()
        await asyncio.sleep(2)
        self._busy = spreads(self._watch.between(began_s, end_s))

    async def measure(self, attack: Attack) -> Found:
        watch, times = self._watch, self._times
        start_s = time.monotonic()
        await asyncio.sleep(times.before_s)
        before, lag = dict(watch.memory), await watch.lag()
        log_bytes = watch.stack.log_bytes
        watch.forget_peak()
        began_s = time.monotonic()
        async with attacker_of(watch.stack.urls, times.attack_s) as attacker:
            await attack.act(attacker)
        end_s = time.monotonic()
        settled_s = await self._settle(before)
        ended_s = time.monotonic()
        late = await watch.lag()
        during = watch.between(began_s, end_s)
        after = watch.between(max(end_s, ended_s - times.after_s), ended_s)
        asked = watch.between(began_s, ended_s)
        return Found(
            name=attack.name,
            point=attack.point,
            sends=attack.sends,
            seconds=end_s - began_s,
            before=spreads(watch.between(start_s, began_s)),
            busy=self._busy,
            during=spreads(during),
            after=spreads(after),
            errors=Counter(one.error for one in asked if one.error is not None),
            memory={
                name: Memory(size, watch.peak[name], watch.memory.get(name, 0))
                for name, size in before.items()
            },
            settled_s=settled_s,
            lag_s={name: late[name].since(lag[name]) for name in late if name in lag},
            got=attacker.got,
            log_bytes=watch.stack.log_bytes - log_bytes,
            series=sum(late[name].series - lag[name].series for name in late if name in lag),
            ended=watch.stack.ended,
        )

    async def _settle(self, before: dict[str, int]) -> float:
        """Wait until memory is as it was, or for as long as it may take; seconds waited."""
        began_s = time.monotonic()
        while (waited_s := time.monotonic() - began_s) < self._times.settle_s:
            grown = max(
                (
                    self._watch.memory.get(name, 0) - size
                    for name, size in before.items()
                    if name != "redis"
                ),
                default=0,
            )
            if waited_s >= self._times.after_s and grown <= ALLOWED_BYTES:
                break
            await asyncio.sleep(0.5)
        return time.monotonic() - began_s


async def attack(
    attacks: Sequence[Attack],
    times: Times,
    *,
    tree: Path | None = None,
    pace: float = 1.0,
) -> list[Found]:
    """Each attack in turn, printed as it ends. A stack that was harmed is not used again.

    Args:
        tree: another checkout, whose services are attacked.
        pace: of victims: how many times as often as usual they ask.
    """
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    found: list[Found] = []
    rest = sorted(attacks, key=lambda one: one.engine)
    while rest:
        engine = rest[0].engine
        with open_stack(engine, tree=tree) as stack:
            async with watching(stack, pace=pace) as watch:
                bench = Bench(watch, times)
                await bench.warm_up()
                while rest and rest[0].engine == engine:
                    one = await bench.measure(rest.pop(0))
                    found.append(one)
                    print(text(one), flush=True)
                    if list(one.missed()):
                        break
    return found


async def run(
    *,
    names: list[str],
    seconds: float,
    tree: Path | None,
    json_path: Path | None,
    list_only: bool,
) -> bool:
    """Attack, print a table. False where a bound was passed."""
    if list_only:
        for one in ATTACKS.values():
            print(f"{one.name:32}{one.engine:16}{one.point:10}{one.sends}")
        return True
    chosen = [ATTACKS[name] for name in names] or list(ATTACKS.values())
    found = await attack(chosen, Times(attack_s=seconds), tree=tree)
    print(summary(found))
    if json_path is not None:
        content = orjson.dumps(found)
        await asyncio.to_thread(json_path.write_bytes, content)
    return not any(list(one.missed()) for one in found)
