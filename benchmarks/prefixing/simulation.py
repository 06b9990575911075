"""Four workers with bounded prefix caches, and who takes which request: in turn alone, or at home first.

A request's prompt is a chain of pieces, each of so many tokens. A worker has places, and a cache of pieces that
forgets the least recently used. A request takes the time to read what is not cached, and a fixed time per token of its
answer. Shares are even, as `take` has them; requests are taken in the order in which they came.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.figures import quantile_ms

PLACES = 16
READ_TOKENS_PER_S = 10_000
TOKEN_S = 0.02
STAYS_S = 0.03

Piece = tuple[str, int]
"""Its name, and how many tokens it has."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and what the same client asks afterwards.

    Attributes:
        later: further turns: seconds after the end of the one before, what the prompt then has beside it, and the
            length of its answer in tokens.
    """

    pieces: tuple[Piece, ...]
    output: int
    later: tuple[tuple[float, tuple[Piece, ...], int], ...] = ()


@dataclass(slots=True)
class _Worker:
    capacity: int
    places: int
    held: int = 0
    taken: int = 0
    cache: OrderedDict[str, int] = field(default_factory=OrderedDict)

    def read(self, pieces: Sequence[Piece]) -> int:
        """Return how many tokens were cached; all of them are afterwards, the last ones to be forgotten first."""
        cached = 0
        for name, tokens in pieces:
            if name not in self.cache:
                break
            cached += tokens
        for name, tokens in reversed(pieces):
            self.cache[name] = tokens
            self.cache.move_to_end(name)
        while sum(self.cache.values()) > self.capacity:
            self.cache.popitem(last=False)
        return cached


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        cached: the share of prompt tokens that were.
        unevenness: what the busiest worker took, of an even share.
    """

    cached: float
    waits_s: tuple[float, ...]
    unevenness: float

    @property
    def wait_p99_ms(self) -> float:
        return quantile_ms(self.waits_s, 0.99)


class _Run:
    def __init__(self, workers: list[_Worker], *, homes: bool, seed: int) -> None:
        self._workers, self._has_homes = workers, homes
        self._rng = random.Random(seed)
        self._homes: dict[str, _Worker] = {}
        self._waiting: list[tuple[float, Asked]] = []
        self._events: list[tuple[float, int, Asked | _Worker | None, Asked | None]] = []
        self._numbers = iter(range(1 << 60))
        self._cached = self._read = 0
        self._waits_s: list[float] = []

    def play(self, arrivals: Sequence[tuple[float, Asked]]) -> Outcome:
        for at_s, asked in arrivals:
            self._later(at_s, asked)
        while self._events:
            now_s, _, what, ended = heapq.heappop(self._events)
            if isinstance(what, Asked):
                self._waiting.append((now_s, what))
            elif isinstance(what, _Worker) and ended is not None:
                what.held -= 1
                self._ask_on(now_s, ended)
            while self._take_one(now_s):
                pass
        taken = [worker.taken for worker in self._workers]
        return Outcome(
            self._cached / self._read,
            tuple(self._waits_s),
            max(taken) * len(taken) / sum(taken),
        )

    def _later(self, at_s: float, what: Asked | _Worker | None, ended: Asked | None = None) -> None:
        heapq.heappush(self._events, (at_s, next(self._numbers), what, ended))

    def _ask_on(self, now_s: float, ended: Asked) -> None:
        if ended.later:
            (after_s, pieces, output), *rest = ended.later
            self._later(now_s + after_s, Asked(ended.pieces + pieces, output, tuple(rest)))

    def _take_one(self, now_s: float) -> bool:
        """Have one worker take one request, whoever asks first. False where none will."""
        asking = [worker for worker in self._workers if worker.held < worker.places]
        if not self._waiting or not asking:
            return False
        level = math.ceil((sum(one.held for one in asking) + len(self._waiting)) / len(asking))
        most = level + 1 + level // 2
        self._rng.shuffle(asking)
        came_s, first = self._waiting[0]
        home = self._home(first) if self._has_homes else None
        stays = home in asking and home.held < most and now_s - came_s < STAYS_S if home else False
        for worker in asking:
            if (worker is home and worker.held < most) or (not stays and worker.held < level):
                self._give(now_s, worker)
                return True
        self._later(now_s + STAYS_S, None)
        return False

    def _home(self, asked: Asked) -> _Worker | None:
        names = (name for name, _ in reversed(asked.pieces))
        return next((self._homes[name] for name in names if name in self._homes), None)

    def _give(self, now_s: float, worker: _Worker) -> None:
        came_s, asked = self._waiting.pop(0)
        tokens = sum(size for _, size in asked.pieces)
        cached = worker.read(asked.pieces)
        worker.held += 1
        worker.taken += 1
        self._homes.update((name, worker) for name, _ in asked.pieces)
        self._cached, self._read = self._cached + cached, self._read + tokens
        self._waits_s.append(now_s - came_s)
        took_s = (tokens - cached) / READ_TOKENS_PER_S + asked.output * TOKEN_S
        self._later(now_s + took_s, worker, asked)


def play(
    arrivals: Sequence[tuple[float, Asked]],
    *,
    workers: int,
    cache_tokens: int,
    places: int = PLACES,
    homes: bool = True,
    seed: int = 1,
) -> Outcome:
    """Serve all of them."""
    all_workers = [_Worker(cache_tokens, places) for _ in range(workers)]
    return _Run(all_workers, homes=homes, seed=seed).play(arrivals)


def shared_prompts(
    count: int, per_s: float, *, prompts: int = 16, seed: int = 1
) -> Iterator[tuple[float, Asked]]:
    """Questions of 100 tokens, each behind one of so many system prompts of 1,000."""
    rng, at_s = random.Random(seed), 0.0
    for number in range(count):
        at_s += rng.expovariate(per_s)
        system = (f"system {rng.randrange(prompts)}", 1000)
        yield at_s, Asked((system, (f"question {number}", 100)), rng.randint(10, 60))


def conversations(
    count: int, per_s: float, *, turns: int = 8, seed: int = 1
) -> Iterator[tuple[float, Asked]]:
    """Chats whose prompts grow by 200 tokens a turn, some five seconds apart; their first message is one of 16."""
    rng, at_s = random.Random(seed), 0.0
    for number in range(count):
        at_s += rng.expovariate(per_s)
        later = tuple(
            (rng.expovariate(0.2), ((f"chat {number}, {turn}", 200),), rng.randint(20, 80))
            for turn in range(1, turns)
        )
        system = (f"system {rng.randrange(16)}", 500)
        yield at_s, Asked((system, (f"chat {number}, 0", 200)), rng.randint(20, 80), later)
