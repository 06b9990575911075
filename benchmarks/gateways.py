"""Relais in front of a model server that already runs, beside other gateways: nginx as a plain proxy, and LiteLLM.

The upstream is the same for all (`forwarding.upstream`). It runs no model, answers a chat after 20 ms, and gives
streams their tokens at a pace, each with the time at which it was written. So what is measured is what a gateway adds:
to the latency of one client, to a request's CPU with many, and to a frame's way. Relais is an orchestrator, a Valkey
with its file, and one worker with `ENGINE=remote`.

Streams climb a ladder: each side's ends with the first step that it fails, by an error, a token lost or late (p99 of a
frame's delay over a second). Two cores bound what any side can deliver; `--slow-steps` are streams at a slower pace.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from benchmarks import short
from benchmarks.answering.report import Measured
from benchmarks.forwarding import report
from benchmarks.forwarding.report import BARE, CLIENT, UPSTREAM, Ladder, Step
from benchmarks.forwarding.sides import FILES, Gateways, find_nginx, started
from benchmarks.servers import Server, prepared
from relais_testing.process_stack import MODEL

HELP = "Relais in front of a model server, beside LiteLLM and nginx"
PARTS = ("latency", "rate", "streams")
DRAINING_S = 30.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add(
        "--litellm",
        type=Path,
        help="LiteLLM's command, in an environment of its own; or not measured",
    )
    add("--nginx", default=find_nginx(), help="nginx's command; empty: not measured")
    add("--rounds", type=int, default=3, help="of latency and rate")
    add("--clients", type=int, default=64, help="of rate")
    add(
        "--requests",
        type=int,
        default=6,
        help="of each client and round; ten times as many of one alone",
    )
    add("--tokens", type=int, nargs="+", default=[1, 8], help="of each chat")
    add(
        "--steps", type=int, nargs="*", default=[16, 64, 256, 1000, 4000, 10_000], help="of streams"
    )
    add("--tokens-per-s", type=float, default=50.0, help="of each stream")
    add("--slow-steps", type=int, nargs="*", default=[1000, 10_000])
    add("--slow-tokens-per-s", type=float, default=0.2)
    add("--seconds", type=float, default=4.0, help="length of a stream, if nothing is late")
    add("--slow-seconds", type=float, default=10.0, help="of a slow one")
    add("--json", type=Path, dest="json_path", help="file for all figures as JSON")
    add("--plot", type=Path, dest="plot_path", help="file for the ladder as SVG")


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients ask for.

    Attributes:
        requests: of each client and round.
        tokens: of each chat, each number in turn.
        steps: streams at once, each number in turn.
        tokens_per_s: of each stream.
        seconds: for which a stream lasts.
        slow_steps: of the slow ladder, likewise `slow_tokens_per_s` and `slow_seconds`.
    """

    rounds: int
    clients: int
    requests: int
    tokens: Sequence[int]
    steps: Sequence[int]
    tokens_per_s: float
    seconds: float
    slow_steps: Sequence[int]
    slow_tokens_per_s: float
    slow_seconds: float


@dataclass(slots=True)
class Found:
    """What was measured: rounds of chats by their length, and both ladders."""

    latency: list[dict[str, Measured]]
    rates: dict[int, list[dict[str, Measured]]]
    ladders: dict[float, Ladder]


async def _chats(
    sides: dict[str, Server], load: short.Load, rounds: int
) -> list[dict[str, Measured]]:
    return [
        {
            name: await short.measure_one(side, load, f"round {number}")
            for name, side in sides.items()
        }
        for number in range(rounds)
    ]


async def measure_step(side: Server, upstream: str, streams: int, tokens: int, pace: float) -> Step:
    """One side with so many streams of so many tokens, at `pace` tokens/s each."""
    client = await prepared(
        *("benchmarks.forwarding.streams", side.url, upstream, MODEL),
        *(str(streams), str(tokens), str(pace)),
    )
    before = side.cpu_s()
    out, _ = await client.communicate(b"go\n")
    after = side.cpu_s()
    assert client.returncode == 0, "the client failed"
    told = orjson.loads(out)
    # A child that came or went meanwhile, as when Redis rewrites its file, is nobody's.
    spent_s = {one: after[one] - before[one] for one in before if one in after}
    spent_s[CLIENT] = told["cpu_s"]
    frames, elapsed_s = told["frames"], told["elapsed_s"]
    return Step(
        streams=streams,
        opened=told["opened"],
        opening_s=told["opening_s"],
        offered_per_s=streams * pace,
        sent_per_s=told["sent"] / told["sending_s"] if told["sending_s"] else 0.0,
        frames=frames,
        elapsed_s=elapsed_s,
        delays_ms=tuple(told["delays_ms"]),
        cpu_us={part: spent / frames * 1e6 if frames else 0.0 for part, spent in spent_s.items()},
        busy={part: spent_s[part] / elapsed_s for part in (CLIENT, UPSTREAM) if frames},
        errors=tuple(told["errors"]),
    )


async def climb(
    sides: dict[str, Server], steps: Sequence[int], pace: float, seconds: float
) -> Ladder:
    """Each side in turn at each step, up to the first that it fails."""
    upstream = sides[BARE].url
    tokens = max(2, round(seconds * pace))
    found: dict[str, list[Step]] = {name: [] for name in sides}
    for streams in steps:
        for name, side in sides.items():
            if found[name] and found[name][-1].failed:
                continue
            step = await measure_step(side, upstream, streams, tokens, pace)
            found[name].append(step)
            print(report.step_line(name, step), flush=True)
            await _drained(upstream)
    return found


async def _drained(upstream: str) -> None:
    """Wait until no stream is open, so that a side that failed is idle when the next one runs."""

    def is_open() -> bool:
        with urllib.request.urlopen(f"{upstream}/state") as answer:
            return bool(orjson.loads(answer.read())["open"])

    end = time.monotonic() + DRAINING_S
    while await asyncio.to_thread(is_open):
        if time.monotonic() > end:
            print(f"  streams are still open after {DRAINING_S:g} s")
            return
        await asyncio.sleep(0.1)


async def measure(load: Load, gateways: Gateways, parts: Sequence[str]) -> Found:
    """All sides in turns. AssertionError where a chat got anything but the right answer."""
    found = Found([], {}, {})
    with tempfile.TemporaryDirectory() as name, started(gateways, Path(name)) as sides:
        if "latency" in parts:
            alone = short.Load(1, 10 * load.requests, load.tokens[-1])
            found.latency = await _chats(sides, alone, load.rounds)
            print(
                f"\none client x {alone.requests} chats of {alone.tokens} tokens, {load.rounds} rounds"
            )
            print(report.latency_text(found.latency), flush=True)
        if "rate" in parts:
            for tokens in load.tokens:
                many = short.Load(load.clients, load.requests, tokens)
                found.rates[tokens] = await _chats(sides, many, load.rounds)
                print(f"\n{many}, {load.rounds} rounds")
                print(report.rate_text(found.rates[tokens]), flush=True)
        if "streams" in parts:
            for steps, pace, seconds in (
                (load.steps, load.tokens_per_s, load.seconds),
                (load.slow_steps, load.slow_tokens_per_s, load.slow_seconds),
            ):
                if steps:
                    print(
                        f"\nstreams of {pace:g} tokens/s, {seconds:g} s each\n{report.STEP_TITLES}"
                    )
                    found.ladders[pace] = await climb(sides, steps, pace, seconds)
                    print(report.ladder_text(found.ladders[pace]), flush=True)
    return found


def _need_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < FILES:
        raise SystemExit(f"{FILES} open files are needed, and {hard} allowed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def run(
    *,
    parts: list[str],
    litellm: Path | None,
    nginx: str | None,
    rounds: int,
    clients: int,
    requests: int,
    tokens: list[int],
    steps: list[int],
    tokens_per_s: float,
    seconds: float,
    slow_steps: list[int],
    slow_tokens_per_s: float,
    slow_seconds: float,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Measure all sides in turns, and print a table for each part."""
    _need_files()
    load = Load(
        *(rounds, clients, requests, tokens, steps, tokens_per_s, seconds),
        *(slow_steps, slow_tokens_per_s, slow_seconds),
    )
    gateways = Gateways(litellm, nginx or None, max([*steps, *slow_steps, clients]))
    began_s = time.monotonic()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    found = await measure(load, gateways, parts)
    print(f"\n{time.monotonic() - began_s:.0f} s, load {os.getloadavg()[0]:.1f} at the end")
    if json_path is not None:
        written = orjson.dumps(
            {"options": asdict(load), **asdict(found)},
            option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS,
        )
        await asyncio.to_thread(json_path.write_bytes, written)
    if plot_path is not None and tokens_per_s in found.ladders:
        # Only a plot needs what draws it.
        from benchmarks.forwarding import plot

        plot.draw(plot_path, found.ladders[tokens_per_s], tokens_per_s)
