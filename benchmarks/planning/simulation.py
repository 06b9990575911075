"""A fleet as a discrete-event model: event loops that share cores, with Redis and its disk between them. Pure.

Each process is an event loop with one thread. In a turn it serves all that has come, holds a core for as long as the
served items cost, and then hands on what it made, which is there a hop later. Redis also waits for its disk before it
answers, without a core. What waits, waits for one of these: a loop's turn, a core, the disk. Workers send tokens by the
rules of decision 38. The simulated clients ask one stream after another, as those of `benchmarks.planning.client` do.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.planning.costs import PACED, UNPACED, Costs
from benchmarks.planning.loads import (
    CLIENTS,
    ORCHESTRATORS,
    REDIS,
    WORKERS,
    Counts,
    Fleet,
    Load,
    Run,
)

INTERVAL_S = 0.02
"""`STREAM_INTERVAL_S`."""

RATE_S = 0.25
"""Over which a worker counts its tokens."""

TICK_S = 0.05
"""How often what a process does unasked is added to its work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a fleet runs on.

    Attributes:
        cores: which all processes share, the clients too. As many as there are processes: each has its own.
        sync_s: how long the disk takes to sync.
        hop_s: from one process's turn to the other that hears of it: the kernel, the wire, and who else wants a core.
        at_once_per_s: tokens per second of one worker up to which each leaves at once.
    """

    cores: int
    sync_s: float
    hop_s: float
    at_once_per_s: float


@dataclass(slots=True)
class Simulated:
    """What came out.

    Attributes:
        run: as a measured one.
        busy: the share of its thread's time for which the busiest process of each part worked.
        late_s: from a token's making to its arrival; of each live message the oldest.
    """

    run: Run
    busy: dict[str, float]
    late_s: list[float]


class Clock:
    """Time, what happens at which moment of it, and the cores."""

    def __init__(self, cores: int) -> None:
        self.now_s = 0.0
        self._free = cores
        self._ready: deque[Loop] = deque()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, time_s: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (time_s, self._count, act))

    def want_core(self, loop: Loop) -> None:
        self._ready.append(loop)
        self._hand_out()

    def free_core(self) -> None:
        self._free += 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._free and self._ready:
            self._free -= 1
            self._ready.popleft().begin()

    def run(self, is_over: Callable[[], bool]) -> None:
        while self._events and not is_over():
            self.now_s, _, act = heapq.heappop(self._events)
            act()


Item = Callable[[], float]
"""Does an item of work, and returns what it costs in microseconds of CPU."""


class Loop:
    """A process with one thread.

    Args:
        turn_us: what it costs to begin to work after there was nothing to do.
        every_turn: whether each other turn costs as much, and counts.
        sync_s: how long a turn that made anything waits for the disk.

    Attributes:
        turns: how often it began to work after there was nothing to do.
    """

    def __init__(
        self,
        clock: Clock,
        turn_us: float = 0.0,
        *,
        every_turn: bool = False,
        sync_s: float = 0.0,
    ) -> None:
        self.clock = clock
        self.busy_s = 0.0
        self.turns = 0
        self._turn_us = turn_us
        self._every_turn = every_turn
        self._cost_us = 0.0
        self._sync_s = sync_s
        self._items: list[Item] = []
        self._made: list[Callable[[], None]] = []
        self._is_idle = True
        self.at_end: Callable[[], float] = lambda: 0.0

    def put(self, item: Item) -> None:
        """Add an item for the next turn."""
        self._items.append(item)
        if self._is_idle:
            self._is_idle = False
            self._begin_turn()
            self.clock.want_core(self)

    def _begin_turn(self) -> None:
        self._cost_us += self._turn_us
        self.turns += 1

    def after(self, act: Callable[[], None]) -> None:
        """Have this done once the turn is over."""
        self._made.append(act)

    def begin(self) -> None:
        items, self._items = self._items, []
        cost_s = (self._cost_us + sum(item() for item in items) + self.at_end()) * 1e-6
        self._cost_us = 0.0
        self.busy_s += cost_s
        self.clock.at(self.clock.now_s + cost_s, self._leave_core)

    def _leave_core(self) -> None:
        self.clock.free_core()
        if self._sync_s and self._made:
            self.clock.at(self.clock.now_s + self._sync_s, self._end)
        else:
            self._end()

    def _end(self) -> None:
        made, self._made = self._made, []
        for act in made:
            act()
        if not self._items:
            self._is_idle = True
            return
        if self._every_turn:
            self._begin_turn()
        self.clock.want_core(self)

    def work_unasked(self, share: Callable[[], float]) -> None:
        """Add what is done without being asked for: a share of a core. It waits for the next turn, and begins none."""
        self._cost_us += share() * TICK_S * 1e6
        self.clock.at(self.clock.now_s + TICK_S, lambda: self.work_unasked(share))


@dataclass(slots=True, eq=False)
class _Stream:
    """One client's streams, one after another."""

    worker: _Worker
    front: Loop
    client: Loop
    requests: int
    tokens: int = 0
    unsent: int = 0
    oldest_s: float = 0.0
    asked_s: float = 0.0
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class _Sent:
    """Tokens of one stream on their way, and when the first of them was made."""

    stream: _Stream
    tokens: int
    oldest_s: float


@dataclass(slots=True)
class _Worker:
    """A worker's loop, and what it has not sent."""

    loop: Loop
    later: dict[_Stream, None] = field(default_factory=dict)
    due: dict[_Stream, None] = field(default_factory=dict)
    is_calling: bool = False
    not_before_s: float = 0.0
    has_timer: bool = False
    has_waited: bool = False
    is_high: bool = False
    counted: int = 0
    since_s: float = 0.0

    def count(self, now_s: float, at_once_per_s: float) -> None:
        """Count a token; too many in `RATE_S` make the rate high."""
        self.counted += 1
        if (past_s := now_s - self.since_s) >= RATE_S:
            self.is_high = self.counted > at_once_per_s * past_s
            self.counted, self.since_s = 0, now_s
        elif self.counted > at_once_per_s * RATE_S:
            self.is_high = True


class _World:
    """All of it."""

    def __init__(
        self, fleet: Fleet, load: Load, costs: Costs, on: Machine, *, steady: bool
    ) -> None:
        self.fleet, self.load, self.costs, self.on = fleet, load, costs, on
        self.steady = steady
        self.clock = clock = Clock(on.cores)
        self.redis = Loop(clock, costs.of(REDIS, "turn"), every_turn=True, sync_s=on.sync_s)
        self.fronts = self._loops(ORCHESTRATORS, fleet.orchestrators)
        self.clients = self._loops(CLIENTS, fleet.orchestrators)
        self.workers = [_Worker(loop) for loop in self._loops(WORKERS, fleet.workers)]
        for worker in self.workers:
            worker.loop.at_end = partial(self._send, worker)
        self.open = self.left = self.tokens = self.calls = self.entries = 0
        self.stream_s = self.call_s = 0.0
        self.late_s: list[float] = []
        self._begin()

    def _loops(self, part: str, count: int) -> list[Loop]:
        return [Loop(self.clock, self.costs.of(part, "turn")) for _ in range(count)]

    def _begin(self) -> None:
        load, fleet, costs = self.load, self.fleet, self.costs
        processes: Sequence[tuple[str, Sequence[Loop]]] = (
            (REDIS, [self.redis]),
            (ORCHESTRATORS, self.fronts),
            (WORKERS, [one.loop for one in self.workers]),
        )
        for part, loops in processes:
            idle, held = costs.of(part, "process_s"), costs.of(part, "stream_s")
            if part == REDIS:
                # Each worker asks it now and then.
                idle = idle * fleet.workers + costs.of(part, "second")
            for loop in loops:
                loop.work_unasked(partial(self._unasked, idle, held / len(loops)))
        self.left = load.streams
        for number in range(load.streams):
            # Each worker's streams belong to all orchestrators.
            worker, at = divmod(number, fleet.orchestrators)
            worker %= fleet.workers
            stream = _Stream(
                self.workers[worker],
                self.fronts[at],
                self.clients[at],
                load.requests,
            )
            if self.steady:
                # Engines know nothing of each other's steps.
                step_s = worker / fleet.workers / load.tokens_per_s
                self.clock.at(step_s, partial(stream.worker.loop.put, partial(self._go_on, stream)))
            else:
                stream.client.put(partial(self._ask, stream))

    def _unasked(self, idle_us: float, held_us: float) -> float:
        """Return the share of a core that a process takes by itself, for what is open too."""
        return (idle_us + held_us * self.open) * 1e-6

    def _hand(self, giver: Loop, taker: Loop, item: Item) -> None:
        """Give a process an item, a hop after this turn of another one."""

        def leave() -> None:
            self.clock.at(self.clock.now_s + self.on.hop_s, partial(taker.put, item))

        giver.after(leave)

    # A request on its way to its worker: each step is a part of what a request costs there.

    def _ask(self, stream: _Stream) -> float:
        stream.asked_s = self.clock.now_s
        self._hand(stream.client, stream.front, partial(self._accept, stream))
        return self.costs.request_us(CLIENTS, self.load, self.fleet)

    def _accept(self, stream: _Stream) -> float:
        self._hand(stream.front, self.redis, partial(self._step, stream, self._take))
        return self.costs.request_us(ORCHESTRATORS, self.load, self.fleet)

    def _step(self, stream: _Stream, then: Callable[[_Stream], float]) -> float:
        self._hand(self.redis, stream.worker.loop, partial(then, stream))
        return self.costs.request_us(REDIS, self.load, self.fleet) / 3

    def _take(self, stream: _Stream) -> float:
        # The queue's call wakes it, a second one takes, a third starts.
        again = self._start if stream.is_open else self._take
        stream.is_open = True
        self._hand(stream.worker.loop, self.redis, partial(self._step, stream, again))
        return self.costs.request_us(WORKERS, self.load, self.fleet) / 3

    def _start(self, stream: _Stream) -> float:
        self._go_on(stream)
        return self.costs.request_us(WORKERS, self.load, self.fleet) / 3

    def _go_on(self, stream: _Stream) -> float:
        self.open += 1
        stream.tokens = 0
        self._next_token(stream)
        return 0.0

    def _next_token(self, stream: _Stream) -> None:
        def make() -> None:
            stream.worker.loop.put(lambda: self._make(stream))

        if self.load.tokens_per_s:
            now_s = self.clock.now_s
            if not self.steady:
                # The deterministic engine has uvloop's timers, which count from the last whole millisecond.
                now_s = math.floor(now_s * 1000) / 1000
            self.clock.at(now_s + 1 / self.load.tokens_per_s, make)
        else:
            stream.worker.loop.after(make)

    # Tokens.

    def _make(self, stream: _Stream) -> float:
        worker, now_s = stream.worker, self.clock.now_s
        stream.tokens += 1
        if not stream.unsent:
            stream.oldest_s = now_s
        stream.unsent += 1
        worker.count(now_s, self.on.at_once_per_s)
        if stream.tokens == self.load.tokens:
            worker.later.pop(stream, None)
            worker.due.pop(stream, None)
            self._call(worker, [stream], ends=True)
        else:
            (worker.due if stream.tokens == 1 else worker.later)[stream] = None
            self._next_token(stream)
        engine = PACED if self.load.tokens_per_s else UNPACED
        return self.costs.of(WORKERS, "token") + self.costs.of(WORKERS, engine)

    def _send(self, worker: _Worker) -> float:
        """At the end of a worker's turn: what the publisher does, and what it costs."""
        now_s = self.clock.now_s
        if worker.is_calling or not (worker.due or worker.later):
            return 0.0
        if worker.later and (now_s >= worker.not_before_s or worker.has_waited):
            worker.due |= worker.later
            worker.later = {}
            worker.not_before_s = now_s + INTERVAL_S
            worker.has_timer = worker.has_waited = False
        elif worker.later and not worker.has_timer:
            worker.has_timer = True
            patience_s = INTERVAL_S if worker.is_high else 0.0
            self.clock.at(worker.not_before_s + patience_s, lambda: self._time_out(worker))
        if not worker.due:
            return 0.0
        batch, worker.due = list(worker.due), {}
        worker.is_calling = True
        self.calls += 1
        self._call(worker, batch, ends=False)
        costs = self.costs
        return costs.of(WORKERS, "call") + len(batch) * costs.of(WORKERS, "entry")

    def _time_out(self, worker: _Worker) -> None:
        if worker.has_timer:
            worker.has_waited = True
            worker.loop.put(lambda: 0.0)

    def _call(self, worker: _Worker, batch: Sequence[_Stream], *, ends: bool) -> None:
        sent = []
        for stream in batch:
            sent.append(_Sent(stream, stream.unsent, stream.oldest_s))
            stream.unsent = 0
        self.entries += len(sent)
        began_s = self.clock.now_s
        self._hand(worker.loop, self.redis, partial(self._append, worker, sent, ends, began_s))

    def _append(self, worker: _Worker, sent: Sequence[_Sent], ends: bool, began_s: float) -> float:
        parts: dict[Loop, list[_Sent]] = {}
        for one in sent:
            parts.setdefault(one.stream.front, []).append(one)

        if not ends:
            self._hand(self.redis, worker.loop, partial(self._answered, worker, began_s))
        for front, some in parts.items():
            self._hand(self.redis, front, partial(self._relay, front, some, ends))
        return (0.0 if ends else self.costs.of(REDIS, "call")) + self._cost(REDIS, sent)

    def _answered(self, worker: _Worker, began_s: float) -> float:
        now_s = self.clock.now_s
        worker.is_calling = False
        self.call_s += now_s - began_s
        if not worker.is_high:
            worker.not_before_s = now_s + min(now_s - began_s, INTERVAL_S)
        return 0.0

    def _cost(self, part: str, sent: Sequence[_Sent]) -> float:
        of, tokens = self.costs.of, sum(one.tokens for one in sent)
        return len(sent) * of(part, "entry") + tokens * of(part, "token")

    def _relay(self, front: Loop, sent: Sequence[_Sent], ends: bool) -> float:
        client = sent[0].stream.client
        self._hand(front, client, partial(self._receive, sent, ends))
        return self._cost(ORCHESTRATORS, sent)

    def _receive(self, sent: Sequence[_Sent], ends: bool) -> float:
        now_s = self.clock.now_s
        for one in sent:
            self.tokens += one.tokens
            self.late_s.append(now_s - one.oldest_s)
            if ends:
                self._end(one.stream)
        return self._cost(CLIENTS, sent)

    def _end(self, stream: _Stream) -> None:
        self.open -= 1
        self.stream_s += self.clock.now_s - stream.asked_s
        stream.is_open = False
        stream.requests -= 1
        if stream.requests:
            stream.client.put(lambda: self._ask(stream))
        else:
            self.left -= 1

    def simulate(self) -> Simulated:
        """Run until all have their answers."""
        self.clock.run(lambda: not self.left)
        elapsed_s = self.clock.now_s
        parts: Mapping[str, Sequence[Loop]] = {
            ORCHESTRATORS: self.fronts,
            WORKERS: [one.loop for one in self.workers],
            REDIS: [self.redis],
            CLIENTS: self.clients,
        }
        counts = Counts(
            requests=self.load.streams * self.load.requests,
            tokens=self.tokens,
            calls=self.calls,
            call_s=self.call_s,
            entries=self.entries,
            stream_s=self.stream_s,
            elapsed_s=elapsed_s,
        )
        cpu_s = {part: sum(one.busy_s for one in loops) for part, loops in parts.items()}
        turns = {part: float(sum(one.turns for one in loops)) for part, loops in parts.items()}
        busy = {part: max(one.busy_s for one in loops) / elapsed_s for part, loops in parts.items()}
        return Simulated(Run(self.fleet, self.load, counts, cpu_s, turns), busy, self.late_s)


def simulate(
    fleet: Fleet, load: Load, costs: Costs, on: Machine, *, steady: bool = False
) -> Simulated:
    """Put a load on a simulated fleet, from the first request to the last token.

    Args:
        steady: all streams are open from the start, so requests cost nothing; else all clients ask in the same moment.
    """
    return _World(fleet, load, costs, on, steady=steady).simulate()
