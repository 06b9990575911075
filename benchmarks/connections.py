"""Many open streams on one orchestrator: what each costs, how late tokens come, and who can harm whom.

A real orchestrator and a real Valkey; the worker's side is the ports themselves (`connecting.feed`), so a token carries
the time at which its append began, and a client in the same process, on the same clock, says how old it is when it
comes. That counts Redis with its append-only file, the orchestrator, and the client's own loop. Each kind of stream
gets an orchestrator of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import uvloop

from benchmarks.connecting.feed import Feed
from benchmarks.connecting.streams import (
    Latencies,
    Stream,
    native_request,
    open_stream,
    open_unread,
    openai_request,
)
from relais_common.jobs.job import Lease
from relais_common.queue.redis_store import RedisSettings, open_store
from relais_common.runtime.lifecycle import background, cancel_and_wait
from relais_testing.keys import dev_key_id
from relais_testing.process_stack import make_starter
from relais_testing.processes import ServiceProcess
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

HELP = "what each of many open streams costs"
KEYS = 100
OPENERS = 128
WARM_UP = 64
LATE = 10
UNREAD = 10
MAX_UNREAD_MB = 3.0
UNREAD_EVENTS = 4_000
UNREAD_PADDING = "x" * 2000
MAX_KB_PER_STREAM = 20.0
MAX_DELIVERY_P99_S = 0.1
MAX_HARMED_P99_S = 0.25
STREAMS_PER_ADDRESS = 20_000
SETTINGS = {
    "LOG_LEVEL": "warning",
    "KEEPALIVE_S": "10",
    "WATCH_LEASE_S": "30",
    "LEASE_S": "6",
    "REAP_EVERY_S": "1",
    "MAX_WAITING": "1000000",
    "MAX_INFLIGHT_PER_KEY": "1000000",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    add, kinds = parser.add_argument, ["native", "openai"]
    add("--streams", type=int, default=10_000)
    add("--kinds", nargs="+", choices=kinds, default=kinds)
    add("--watch", type=float, default=30, dest="watch_s", help="seconds idle, then with tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much of it.

    Attributes:
        streams: of one kind, open at once.
        watch_s: how long they are watched idle, and then with tokens.
        token_every_s: of each stream, then.
        late_events: of the channel that late readers read.
        late_s: how long the others are watched meanwhile.
        write_timeout_s: the orchestrator's `WRITE_TIMEOUT_S`.
    """

    streams: int
    watch_s: float
    token_every_s: float = 20.0
    late_events: int = 10_000
    late_s: float = 10.0
    write_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """One figure; `ok` is None where no bar is set."""

    what: str
    figure: str
    ok: bool | None = None


@dataclass(slots=True)
class Watch:
    """What a stretch of time cost the orchestrator; filled in when it ends.

    Attributes:
        own_pause_s: the longest time for which this process's own loop stood still; no token is younger by then.
    """

    cpu_share: float = 0.0
    own_pause_s: float = 0.0
    late_s: list[float] = field(default_factory=list)

    def quantile_s(self, q: float) -> float:
        if not self.late_s:
            return float("nan")
        return sorted(self.late_s)[min(len(self.late_s) - 1, int(q * len(self.late_s)))]


class Bench:
    """One orchestrator and its clients."""

    def __init__(self, kind: str, front: ServiceProcess, feed: Feed) -> None:
        self.kind = kind
        self.front = front
        self.feed = feed
        self.process = psutil.Process(front.pid)
        self.latencies = Latencies()
        self.streams: list[Stream] = []
        self.lines: list[Line] = []

    async def received(self, watch: Watch, given: int) -> bool:
        """Wait until as many tokens came as were given; False where they do not."""
        with suppress(AssertionError):
            await wait_until(lambda: len(watch.late_s) >= given)
        return len(watch.late_s) == given

    def rss_kb(self) -> float:
        return float(self.process.memory_info().rss) / 1024

    def say(self, what: str, figure: str, ok: bool | None = None) -> None:
        self.lines.append(Line(what, figure, ok))
        verdict = "" if ok is None else "  ok" if ok else "  MISSED"
        print(f"  {what:58} {figure}{verdict}", flush=True)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[Watch]:
        """CPU of the orchestrator and delivery to the streams meanwhile."""
        watch = Watch(late_s=self.latencies.fresh())
        before, began_s = self.process.cpu_times(), time.monotonic()
        pausing = asyncio.create_task(_note_pauses(watch))
        yield watch
        with suppress(asyncio.CancelledError):
            await cancel_and_wait(pausing)
        after = self.process.cpu_times()
        spent_s = after.user + after.system - before.user - before.system
        watch.cpu_share = max(0.0, spent_s) / (time.monotonic() - began_s)
        self.latencies.fresh()

    async def open(self, count: int) -> tuple[list[Stream], list[Lease], list[float]]:
        """Open streams, `OPENERS` at a time; they, their jobs, and how long each took."""
        known = len(self.feed.leases)
        requests = await self._requests(count)
        opened: list[Stream] = []

        async def opener() -> None:
            while requests:
                number, request = requests.popitem()
                opened.append(
                    await open_stream(
                        self.front.port,
                        self.kind,
                        request,
                        self.latencies,
                        address=f"127.0.0.{1 + number // STREAMS_PER_ADDRESS}",
                    )
                )

        async with self.feed.taking():
            await asyncio.gather(*(opener() for _ in range(OPENERS)))
        return opened, self.feed.leases[known:], [stream.first_s for stream in opened]

    async def _requests(self, count: int) -> dict[int, bytes]:
        tokens = [f"client-{number % KEYS}" for number in range(count)]
        if self.kind == "openai":
            return {number: openai_request(token) for number, token in enumerate(tokens)}
        channels = await self.feed.submit([dev_key_id(token) for token in tokens])
        while await self.feed.take():
            pass
        return {
            number: native_request(channel_id, token)
            for number, (channel_id, token) in enumerate(zip(channels, tokens, strict=True))
        }


async def _note_pauses(watch: Watch) -> None:
    while True:
        began_s = time.monotonic()
        await asyncio.sleep(0.01)
        watch.own_pause_s = max(watch.own_pause_s, time.monotonic() - began_s - 0.01)


async def _many(bench: Bench, load: Load) -> list[Lease]:
    """Open them all, leave them idle, then give each a token now and then."""
    warm, _, _ = await bench.open(WARM_UP)
    for stream in warm:
        stream.close()
    await asyncio.sleep(2)
    before_kb, began_s = bench.rss_kb(), time.monotonic()
    bench.streams, leases, first_s = await bench.open(load.streams)
    took_s = time.monotonic() - began_s
    first_s.sort()
    bench.say("opened, streams/s", f"{load.streams / took_s:,.0f}")
    bench.say("  first event p99", f"{first_s[int(0.99 * len(first_s))]:.3f} s")
    await asyncio.sleep(2)
    kb = (bench.rss_kb() - before_kb) / load.streams
    bench.say("memory per stream, just opened", f"{kb:.1f} KB", kb <= MAX_KB_PER_STREAM)
    async with bench.watched() as watch:
        await asyncio.sleep(load.watch_s)
    bench.say("CPU, all idle (keep-alives only)", f"{watch.cpu_share:.0%} of a core")
    async with bench.watched() as watch:
        given = await bench.feed.add_in_turn(leases, every_s=load.token_every_s, for_s=load.watch_s)
        whole = await bench.received(watch, given)
    rate = given / load.watch_s
    bench.say(
        f"CPU, a token every {load.token_every_s:.0f} s each", f"{watch.cpu_share:.0%} of a core"
    )
    p50, p99 = watch.quantile_s(0.5) * 1e3, watch.quantile_s(0.99) * 1e3
    bench.say(
        f"  delivery of {rate:.0f} tokens/s, p50, p99, worst",
        f"{p50:.1f}, {p99:.1f}, {watch.quantile_s(1) * 1e3:.1f} ms",
        p99 <= MAX_DELIVERY_P99_S * 1e3,
    )
    bench.say("  longest pause of the client's own loop", f"{watch.own_pause_s * 1e3:.0f} ms")
    bench.say("  tokens lost", str(given - len(watch.late_s)), whole)
    kb = (bench.rss_kb() - before_kb) / load.streams
    bench.say("memory per stream, after that", f"{kb:.1f} KB", kb <= MAX_KB_PER_STREAM)
    return leases


async def _late(bench: Bench, leases: list[Lease], load: Load) -> None:
    """Readers who come when a long log is complete."""
    (channel,) = await bench.feed.submit([dev_key_id("late")])
    while await bench.feed.take():
        pass
    lease = bench.feed.leases[-1]
    for _ in range(load.late_events // 500):
        await bench.feed.add([lease], count=500)
    await bench.feed.end(lease)
    request = native_request(channel, "late")

    async def late() -> Stream:
        stream = await open_stream(bench.front.port, "native", request, None)
        await stream.ended
        stream.close()
        return stream

    async with bench.watched() as watch:
        feeding = asyncio.create_task(
            bench.feed.add_in_turn(leases, every_s=load.token_every_s, for_s=load.late_s)
        )
        await asyncio.sleep(1)
        readers = await asyncio.gather(*(late() for _ in range(LATE)))
        await bench.received(watch, await feeding)
    whole = all(reader.tokens == load.late_events for reader in readers)
    first_s = max(reader.first_s for reader in readers)
    last_s = max(reader.last_s for reader in readers)
    bench.say(
        f"{LATE} at once read a log of {load.late_events:,}: first, last event",
        f"{first_s:.2f}, {last_s:.2f} s",
        whole,
    )
    p99 = watch.quantile_s(0.99)
    bench.say("  the others' delivery p99", f"{p99 * 1e3:.1f} ms", p99 <= MAX_HARMED_P99_S)


async def _unread(bench: Bench, leases: list[Lease], load: Load) -> None:
    """Readers who ask for more than any buffer holds, and take nothing of it."""
    known = len(bench.feed.leases)
    channels = await bench.feed.submit([dev_key_id("unread")] * UNREAD)
    while await bench.feed.take():
        pass
    for lease in bench.feed.leases[known:]:
        for _ in range(UNREAD_EVENTS // 100):
            await bench.feed.add([lease], count=100, padding=UNREAD_PADDING)
    before_kb = bench.rss_kb()
    most_kb = before_kb

    async def weigh() -> None:
        nonlocal most_kb
        while True:
            most_kb = max(most_kb, bench.rss_kb())
            await asyncio.sleep(0.05)

    async with bench.watched() as watch, background(weigh()):
        feeding = asyncio.create_task(
            bench.feed.add_in_turn(
                leases, every_s=load.token_every_s, for_s=load.write_timeout_s + 5
            )
        )
        sockets = [
            await open_unread(bench.front.port, native_request(channel, "unread"))
            for channel in channels
        ]
        await bench.received(watch, await feeding)
        cut = await _cut(bench.process, sockets)
    for sock in sockets:
        sock.close()
    p99 = watch.quantile_s(0.99)
    bench.say(
        f"{UNREAD} that never read: the others' delivery p99",
        f"{p99 * 1e3:.1f} ms",
        p99 <= MAX_HARMED_P99_S,
    )
    grown = (most_kb - before_kb) / 1024
    bench.say(
        "  the orchestrator grew by at most", f"{grown:.1f} MB", grown <= MAX_UNREAD_MB * UNREAD
    )
    bench.say("  of them cut off in time", f"{cut} of {UNREAD}", cut == UNREAD)


async def _cut(process: psutil.Process, sockets: list[socket.socket]) -> int:
    """Wait until the process has closed its ends of these; how many it has."""
    ports = {sock.getsockname()[1] for sock in sockets}

    def held() -> int:
        remote = [one.raddr for one in process.net_connections("tcp")]
        return sum(bool(address) and address.port in ports for address in remote)

    with suppress(AssertionError):
        await wait_until(lambda: held() == 0, every_s=0.2)
    return len(sockets) - held()


def _need_files(count: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if count > hard:
        raise SystemExit(f"{count} open files are needed, and {hard} allowed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def measure(kind: str, load: Load) -> list[Line]:
    """All figures of one kind of stream, printed as they come."""
    _need_files(load.streams + 200)
    with ExitStack() as stack:
        data, logs = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2))
        redis = stack.enter_context(ValkeyServer(data, appendonly=True))
        front = make_starter(stack, redis, logs)(
            "orchestrator", **SETTINGS, WRITE_TIMEOUT_S=str(load.write_timeout_s)
        )
        print(f"{load.streams:,} {kind} streams (orchestrator: pid {front.pid})", flush=True)
        async with open_store(RedisSettings(redis.url)) as store:
            bench = Bench(kind, front, Feed(store))
            try:
                leases = await _many(bench, load)
                await _late(bench, leases, load)
                await _unread(bench, leases, load)
                cut = sum(stream.lost for stream in bench.streams)
                bench.say("streams cut", str(cut), cut == 0)
            finally:
                for stream in bench.streams:
                    stream.close()
    return bench.lines


async def run(*, streams: int, kinds: list[str], watch_s: float) -> bool:
    """Measure each kind of stream; False where a bar was missed."""
    load = Load(streams=streams, watch_s=watch_s)

    def measure_all() -> bool:
        lines = [line for kind in kinds for line in uvloop.run(measure(kind, load))]
        return all(line.ok is not False for line in lines)

    return await asyncio.to_thread(measure_all)
