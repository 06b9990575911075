"""What the deterministic engine costs by itself, which is no part of Relais.

`python -m benchmarks.planning.engine` prints it as JSON.
"""

from __future__ import annotations

import asyncio
import time

import orjson
import uvloop

from benchmarks.planning.costs import PACED, UNPACED
from relais_common.jobs.job import Sampling
from relais_llm_worker.engines.engine_deterministic import DeterministicEngine

FEW, MANY = 8, 64
TOKENS, UNPACED_TOKENS = 60, 2000
TOKENS_PER_S = 40.0


async def _token_us(streams: int, tokens: int, tokens_per_s: float) -> float:
    """CPU of a token where so many streams run at once."""
    engine = DeterministicEngine(
        "alone", max_model_len=100_000, max_num_seqs=streams, tokens_per_s=tokens_per_s
    )

    async def answer(number: int) -> None:
        prompt = list(f"{number}".encode())
        sampling = Sampling(max_tokens=tokens)
        async with engine.generate(str(number), prompt, sampling, tokens) as generation:
            async for _ in generation.chunks():
                pass

    began_s = time.process_time()
    await asyncio.gather(*map(answer, range(streams)))
    return (time.process_time() - began_s) / streams / tokens * 1e6


async def main() -> None:
    few = await _token_us(FEW, TOKENS, TOKENS_PER_S)
    many = await _token_us(MANY, TOKENS, TOKENS_PER_S)
    unpaced = await _token_us(MANY, UNPACED_TOKENS, 0)
    # All tokens of a step share its turn of the loop, which is no cost of the engine's.
    turn = max(0.0, (few - many) / (1 / FEW - 1 / MANY))
    told = {PACED: max(0.0, many - turn / MANY), UNPACED: unpaced}
    print(orjson.dumps(told).decode())


if __name__ == "__main__":
    uvloop.run(main())
