"""Batches: nothing lost under kills, memory, who else waits, idle capacity, cancels, and `vllm run-batch` beside.

Bars: under kills each line has one result, equal to that of an undisturbed run; an orchestrator never has more than
150 MB; the p95 of interactive first tokens is at most 10 % longer beside a batch, which takes 95 % of what is idle;
a cancel takes 2 s; and tokens/s are those of `vllm run-batch` on the same file.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.batching import beside, kills, memory, offline
from benchmarks.figures import Bar, quantile_ms

HELP = "batches under kills, beside interactive streams, and beside `vllm run-batch`"
PARTS = ("kills", "memory", "beside", "vllm")
MAX_BYTES = 150e6
MAX_TTFT = 1.10
MIN_IDLE_USED = 0.95
MAX_CANCEL_S = 2.0
LINE_TOKENS = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    add = parser.add_argument
    add("--parts", choices=PARTS, nargs="+", default=PARTS)
    add("--lines", type=int, default=50_000, help="of the batch under kills")
    add("--every", type=float, default=3, dest="every_s", help="seconds between kills")
    add("--seed", type=int, default=1)
    add("--rounds", type=int, default=5, help="of streams with and without a batch")
    add("--seconds", type=float, default=20, help="of each stretch of streams")
    add("--vllm-lines", type=int, default=1000)
    add("--vllm-rounds", type=int, default=3)
    add("--logs", type=Path, dest="keep_logs", help="folder that keeps the killed services' logs")


async def run(
    *,
    parts: list[str],
    lines: int,
    every_s: float,
    seed: int,
    rounds: int,
    seconds: float,
    vllm_lines: int,
    vllm_rounds: int,
    keep_logs: Path | None,
) -> bool:
    """Measure the parts and print their bars. False where one is missed."""
    bars: list[Bar] = []
    if "kills" in parts:
        killed = await kills.run_twice(
            lines=lines, tokens=LINE_TOKENS, every_s=every_s, seed=seed, keep_logs=keep_logs
        )
        bars += _judge_kills(killed)
    if "memory" in parts:
        bars += _judge_memory(await memory.measure())
    if "beside" in parts:
        bars += _judge_beside(await beside.measure(rounds=rounds, seconds=seconds))
    if "vllm" in parts:
        bars += _judge_offline(
            await offline.measure(lines=vllm_lines, tokens=128, rounds=vllm_rounds)
        )
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for bar in bars:
        print(bar)
    return all(bar.met for bar in bars)


def _judge_kills(killed: kills.Killed) -> Iterator[Bar]:
    wrong, struck = list(killed.wrong()), killed.struck
    for one in wrong[:20] + killed.surprises:
        print(f"  ! {one[:400]}")
    print(
        f"{killed.lines:,} lines: undisturbed {killed.calm.took_s:.0f} s, "
        f"{struck.took_s:.0f} s under {killed.kills.total()} kills {dict(killed.kills)}; "
        f"errors logged: {dict(killed.errors)}"
    )
    yield Bar(
        "status under kills",
        f"{struck.status} {struck.counts}",
        struck.status == "completed" and struck.counts["completed"] == killed.lines,
    )
    yield Bar("lines missing, doubled or different under kills", f"{len(wrong)}", not wrong)
    yield Bar(
        "processes that ended by themselves", f"{len(killed.surprises)}", not killed.surprises
    )
    yield _within("memory of an orchestrator that runs it", killed.peak_bytes, killed.idle_bytes)


def _judge_memory(found: memory.Memory) -> Iterator[Bar]:
    size = f"{found.file_bytes / 1e6:.0f} MB"
    for what, peak in (
        (f"uploads {size}", found.uploading),
        ("validates that file", found.validating),
        ("sends it to a slow reader", found.downloading),
    ):
        yield _within(f"memory of an orchestrator that {what}", peak, found.idle)


def _within(what: str, peak_bytes: int, idle_bytes: int) -> Bar:
    figure = f"{peak_bytes / 1e6:.0f} MB (before: {idle_bytes / 1e6:.0f})"
    return Bar(what, figure, peak_bytes <= MAX_BYTES)


def _judge_beside(rounds: list[beside.Round]) -> Iterator[Bar]:
    alone = [first_s for one in rounds for first_s in one.alone.first_s]
    with_batch = [first_s for one in rounds for first_s in one.beside.first_s]
    for name, first_s in (("alone", alone), ("beside a batch", with_batch)):
        told = ", ".join(f"{quantile_ms(first_s, share):.1f}" for share in (0.5, 0.95, 0.99))
        print(f"first token {name}, p50, p95, p99 ms: {told} ({len(first_s)} streams)")
    full = statistics.median(one.full.tokens_per_s for one in rounds)
    busy = statistics.median(one.beside.tokens_per_s for one in rounds)
    occupied = statistics.mean(one.beside.occupied for one in rounds)
    print(
        f"tokens/s: {full:.0f} of streams that fill the engine, {busy:.0f} of batch and streams; "
        f"places occupied: {occupied:.1%}"
    )
    ratio = quantile_ms(with_batch, 0.95) / quantile_ms(alone, 0.95)
    yield Bar("p95 of first tokens beside a batch", f"{ratio:.2f} of that alone", ratio <= MAX_TTFT)
    used = statistics.median(one.idle_used for one in rounds)
    yield Bar("idle capacity used", f"{used:.1%}", used >= MIN_IDLE_USED)
    stopped_s = max(one.stopped_s for one in rounds)
    files_s = max(one.cancelled_s for one in rounds)
    yield Bar(
        "longest cancel",
        f"{stopped_s:.2f} s until nothing runs, {files_s:.2f} s until the files are there",
        stopped_s <= MAX_CANCEL_S,
    )


def _judge_offline(rounds: list[tuple[offline.Offline, offline.Offline]]) -> Iterator[Bar]:
    same = sum(
        peer.texts[name] == own.texts.get(name) for peer, own in rounds for name in peer.texts
    )
    total = sum(len(peer.texts) for peer, _ in rounds)
    print(f"same texts: {same} of {total}")
    ratio = statistics.median(own.tokens_per_s / peer.tokens_per_s for peer, own in rounds)
    tokens_per_s = statistics.median(own.tokens_per_s for _, own in rounds)
    figure = f"{ratio:.2f} of `vllm run-batch` ({tokens_per_s:,.0f} tokens/s)"
    yield Bar("tokens/s", figure, ratio >= 1.0)
