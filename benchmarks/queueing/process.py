"""A worker or a client of one queue: `python -m benchmarks.queueing.process PEER worker|client URL PLACES`.

A client warms up and says so; then each line on stdin, `<in flight> <jobs>`, is answered with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from importlib import import_module

import uvloop

from benchmarks.queueing.shapes import Submit

WARM_UP = 100


async def _run(submit: Submit, in_flight: int, jobs: int) -> dict[str, object]:
    latencies_s: list[float] = []
    left = jobs

    async def submit_on() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began_s = time.perf_counter()
            await submit()
            latencies_s.append(time.perf_counter() - began_s)

    began_s = time.perf_counter()
    await asyncio.gather(*(submit_on() for _ in range(in_flight)))
    return {"elapsed_s": time.perf_counter() - began_s, "latencies_s": latencies_s}


async def _first_answer(submit: Submit) -> None:
    """Wait for the worker. SAQ gives up a job that is there while its worker starts."""
    for _ in range(20):
        try:
            return await submit()
        except Exception as error:  # noqa: BLE001 - each peer has its own
            print(f"not yet: {error!r}", file=sys.stderr)
            await asyncio.sleep(0.2)
    raise SystemExit("no worker answers")


async def main(peer: str, role: str, url: str, places: int) -> None:
    module = import_module(f"benchmarks.queueing.peer_{peer}")
    if role == "worker":
        await module.work(url, places)
        return
    async with module.connect(url) as submit:
        await _first_answer(submit)
        await _run(submit, 10, WARM_UP)
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            in_flight, jobs = map(int, line.split())
            print(json.dumps(await _run(submit, in_flight, jobs)), flush=True)


if __name__ == "__main__":
    name, part, where, room = sys.argv[1:]
    uvloop.run(main(name, part, where, int(room)))
