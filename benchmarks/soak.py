"""Nothing lost: many clients, real processes, random faults for a set time, then an exact audit.

What is asked and which faults are drawn follow from the seed; where each of them hits depends on the machine too.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.soaking import audit
from benchmarks.soaking.asks import Ask, deterministic_ask
from benchmarks.soaking.client import Client, Outcome
from benchmarks.soaking.faults import Faults, Weights
from benchmarks.soaking.fleet import Fleet
from relais_common.lifecycle import background
from support.process_stack import DETERMINISTIC, QUICK
from support.valkey import ValkeyServer

LEASE_S = 2.0
LOG_TTL_S = 30
RESULT_TTL_S = 40
PROGRESS_S = 10.0
STACK = {
    **QUICK,
    "LEASE_S": str(LEASE_S),
    "DRAIN_S": "1",
    "DEFAULT_DEADLINE_S": "600",
    "LOG_TTL_S": str(LOG_TTL_S),
    "RESULT_TTL_S": str(RESULT_TTL_S),
}
STEADY_AFTER_S = 240.0
GROWTH_ALLOWED = 1.10
GROWTH_ALLOWED_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing that is asked of the run."""

    what: str
    asked: str
    seen: str
    ok: bool


@dataclass
class Soaked:
    """What a run has shown."""

    seed: int
    seconds: float
    faults: Counter[str]
    outcomes: list[Outcome]
    continued: dict[str, int]
    crashes: Counter[str]
    surprises: list[str]
    remains: list[str]
    memory: dict[str, audit.Growth] = field(default_factory=dict)

    def problems(self, *kinds: str) -> list[str]:
        """Broken promises of these kinds, or of all."""
        return [
            f"{kind}: {what}"
            for outcome in self.outcomes
            for kind, what in outcome.problems
            if not kinds or kind in kinds
        ]

    @property
    def completed(self) -> int:
        return sum(outcome.status == "completed" for outcome in self.outcomes)

    @property
    def continued_midway(self) -> int:
        """Requests that a second worker went on with after `audit.MIDDLE` tokens."""
        ours = {outcome.channel_id for outcome in self.outcomes}
        return sum(
            tokens >= audit.MIDDLE and channel_id in ours
            for channel_id, tokens in self.continued.items()
        )


@asynccontextmanager
async def open_fleet(
    *,
    fronts: int,
    workers: int,
    settings: dict[str, dict[str, str]],
    immortal: bool,
    rng: random.Random,
    keep_logs: Path | None = None,
) -> AsyncIterator[Fleet]:
    """A stack on a Redis with an append-only file, synced every second as bootstrap.sh sets it."""
    with tempfile.TemporaryDirectory() as folder:
        logs = keep_logs or Path(folder) / "logs"
        data = Path(folder) / "redis"
        logs.mkdir(parents=True, exist_ok=True)
        data.mkdir()
        options = {"appendfsync": "everysec"}
        with ValkeyServer(data, appendonly=True, options=options) as redis:
            url = {"REDIS_URL": redis.url}
            fleet = Fleet(
                redis,
                logs,
                fronts=fronts,
                workers=workers,
                settings={name: {**values, **url} for name, values in settings.items()},
                immortal=immortal,
                rng=rng,
            )
            async with fleet.running():
                yield fleet


async def ask_all(
    fleet: Fleet,
    make_ask: Callable[[int], Ask],
    *,
    clients: int,
    seed: int,
    enough: Callable[[int], bool],
    outcomes: list[Outcome],
    label: str = "soak",
) -> None:
    """So many clients at once, each with one request at a time, until `enough` says so of the next number."""
    asked = 0

    async def one(number: int, session: aiohttp.ClientSession) -> None:
        nonlocal asked
        client = Client(session, fleet, f"{label}/{seed}", random.Random(f"{seed}/client/{number}"))
        while not enough(asked):
            asked += 1
            outcomes.append(await client.ask(make_ask(asked - 1)))

    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(one(number, session))


async def soak(
    *,
    minutes: float,
    every_s: float,
    seed: int,
    clients: int,
    requests: int | None = None,
    keep_logs: Path | None = None,
) -> Soaked:
    """The deterministic engine under all faults.

    Args:
        minutes: how long new requests are made.
        requests: end after so many of them, however long it takes.
        keep_logs: folder for the services' logs; a temporary one where None.
    """
    rng = random.Random(f"{seed}/faults")
    paced = {**DETERMINISTIC, "DETERMINISTIC_TOKENS_PER_S": "60", "VLLM_MAX_NUM_SEQS": "8"}
    settings = {"orchestrator": STACK, "llm_worker": {**STACK, **paced}}
    async with open_fleet(
        fronts=3, workers=3, settings=settings, immortal=True, rng=rng, keep_logs=keep_logs
    ) as fleet:
        run = Run(fleet, Faults(fleet, Weights(), lease_s=LEASE_S, rng=rng))

        def enough(asked: int) -> bool:
            if requests is not None:
                return asked >= requests
            return run.at_s >= minutes * 60

        async with run.under_faults(every_s):
            await ask_all(
                fleet,
                lambda number: deterministic_ask(seed, number),
                clients=clients,
                seed=seed,
                enough=enough,
                outcomes=run.outcomes,
            )
        return await run.audited(seed)


class Run:
    """Faults, progress and memory of one run, and its end.

    Attributes:
        outcomes: of the requests that have ended.
    """

    def __init__(self, fleet: Fleet, faults: Faults) -> None:
        self.outcomes: list[Outcome] = []
        self._fleet = fleet
        self._faults = faults
        self._memory = audit.MemoryWatch(fleet)
        self._began_s = time.monotonic()
        self._took_s = 0.0

    @property
    def at_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began_s

    @asynccontextmanager
    async def under_faults(self, every_s: float) -> AsyncIterator[None]:
        """Inside, the fleet is struck and watched. At the end it is whole again."""
        stop = asyncio.Event()
        async with background(self._watch()), asyncio.TaskGroup() as group:
            group.create_task(self._faults.run(every_s, stop))
            yield
            stop.set()
        self._took_s = self.at_s
        await self._fleet.all_ready()

    async def audited(self, seed: int) -> Soaked:
        """Wait until everything should have expired, and look at what is there."""
        end_s = self.at_s + RESULT_TTL_S + 30
        while remains := await asyncio.to_thread(audit.remains, self._fleet.redis.url):
            if self.at_s >= end_s:
                break
            await asyncio.sleep(2)
        folder = self._fleet.folder
        return Soaked(
            seed=seed,
            seconds=self._took_s,
            faults=self._faults.done,
            outcomes=self.outcomes,
            continued=audit.continued(folder),
            crashes=audit.crashes(folder),
            surprises=self._fleet.surprises,
            remains=remains,
            memory=self._memory.growth,
        )

    async def _watch(self) -> None:
        said_s = 0.0
        while True:
            await asyncio.to_thread(self._memory.sample, self.at_s)
            if self.at_s >= said_s + PROGRESS_S:
                said_s = self.at_s
                continued = await asyncio.to_thread(audit.continued, self._fleet.folder)
                problems = sum(len(outcome.problems) for outcome in self.outcomes)
                print(
                    f"{self.at_s:6.0f} s  ended {len(self.outcomes):5}  faults {self._faults.done.total():4}"
                    f"  continued {len(continued):4}  problems {problems}",
                    flush=True,
                )
            await asyncio.sleep(1)


def judge(soaked: Soaked, *, requests: int, continued: int) -> list[Bar]:
    """The bars: so many requests, so many continued midway, and nothing lost."""
    asked = len(soaked.outcomes)

    def none_of(what: str, found: Sequence[str]) -> Bar:
        return Bar(what, "0", str(len(found)), not found)

    return [
        Bar("requests", f">= {requests:,}", f"{asked:,}", asked >= requests),
        Bar(
            "completed",
            "100 %",
            f"{soaked.completed / max(1, asked):.2%}",
            soaked.completed == asked,
        ),
        Bar(
            f"continued after >= {audit.MIDDLE} tokens",
            f">= {continued:,}",
            f"{soaked.continued_midway:,}",
            soaked.continued_midway >= continued,
        ),
        none_of("lost", soaked.problems("lost", "ended", "refused")),
        none_of(
            "events doubled, missing or rewound", soaked.problems("doubled", "missing", "rewound")
        ),
        none_of("logs that read differently again", soaked.problems("reread")),
        none_of("texts or counts that differ", soaked.problems("text")),
        none_of("left in Redis", soaked.remains),
        none_of("processes that ended by themselves", soaked.surprises),
        none_of("unforeseen errors in the logs", sorted(soaked.crashes.elements())),
        *_judge_memory(soaked),
    ]


def _judge_memory(soaked: Soaked) -> Iterator[Bar]:
    """The last sixth of the run against its second: growth in between would go on for ever."""
    if soaked.seconds < STEADY_AFTER_S:
        return
    sixth_s = soaked.seconds / 6
    for name, growth in sorted(soaked.memory.items()):
        early = growth.between(sixth_s, 2 * sixth_s)
        late = growth.between(5 * sixth_s, 6 * sixth_s)
        bound = early * GROWTH_ALLOWED + GROWTH_ALLOWED_BYTES
        yield Bar(
            f"memory of {name}, MiB",
            f"<= {bound / 2**20:.1f}",
            f"{early / 2**20:.1f} -> {late / 2**20:.1f}",
            late <= bound,
        )


def print_report(soaked: Soaked, bars: Sequence[Bar]) -> None:
    print(f"\nseed {soaked.seed}, {soaked.seconds:.0f} s")
    faults = ", ".join(f"{count} {name}" for name, count in soaked.faults.most_common())
    print(f"{soaked.faults.total()} faults: {faults}")
    seen = sum((outcome.seen for outcome in soaked.outcomes), Counter[str]())
    print("clients: " + ", ".join(f"{count:,} {name}" for name, count in seen.most_common()))
    for line in soaked.problems() + soaked.surprises + soaked.remains[:20]:
        print(f"  ! {line[:400]}")
    print(f"\n{'':40} {'asked':>12} {'seen':>16}")
    for bar in bars:
        print(f"{bar.what:40} {bar.asked:>12} {bar.seen:>16}  {'ok' if bar.ok else 'MISSED'}")


async def run(
    *, minutes: float, every_s: float, seed: int, clients: int, keep_logs: Path | None
) -> bool:
    """Soak, print the bars. True if none was missed."""
    soaked = await soak(
        minutes=minutes, every_s=every_s, seed=seed, clients=clients, keep_logs=keep_logs
    )
    bars = judge(soaked, requests=round(200 * minutes), continued=round(30 * minutes))
    print_report(soaked, bars)
    return all(bar.ok for bar in bars)
