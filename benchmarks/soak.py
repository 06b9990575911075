"""Nothing lost: many clients, real processes, random faults for a set time, then an exact audit.

What is asked and which faults are drawn follow from the seed; where each of them hits depends on the machine too.
"""

from __future__ import annotations

import argparse
import random
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.attacking.beside import attacks_beside
from benchmarks.attacking.keys import ATTACKERS
from benchmarks.soaking.asks import demo_asks, deterministic_ask
from benchmarks.soaking.client import Outcome
from benchmarks.soaking.faults import WORKERS_ONLY, Faults, Weights
from benchmarks.soaking.logits import explain
from benchmarks.soaking.report import Bar, Soaked, judge, print_report
from benchmarks.soaking.running import Run, ask_all, open_fleet
from relais_testing.keys import dev_key_id, key_of
from relais_testing.process_stack import DETERMINISTIC, QUICK, VLLM_ON_CPU

HELP = "nothing lost: load under random faults, then an audit"
RESULT_TTL_S = 40
QUIET_WITHIN_S = RESULT_TTL_S + 30.0
STACK = {
    **QUICK,
    "DRAIN_S": "1",
    "DEFAULT_DEADLINE_S": "600",
    "LOG_TTL_S": "30",
    "RESULT_TTL_S": str(RESULT_TTL_S),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    add = parser.add_argument
    add("--engine", choices=["deterministic", "vllm"], default="deterministic")
    add("--minutes", type=float, default=10)
    add("--every", type=float, default=3, dest="every_s", help="seconds between faults")
    add("--seed", type=int, default=1)
    add("--clients", type=int, default=40)
    attacked = "other keys attack meanwhile (deterministic only)"
    add("--attacked", action="store_true", help=attacked)
    modes, of_redis = ["always", "everysec", "no"], "of Redis, under the deterministic engine"
    add("--appendfsync", choices=modes, default="always", help=of_redis)
    add("--logs", type=Path, dest="keep_logs", help="folder that keeps the services' logs")


async def soak(
    *,
    minutes: float,
    every_s: float,
    seed: int,
    clients: int,
    requests: int | None = None,
    let_expire: bool = True,
    attacked: bool = False,
    appendfsync: str = "always",
    keep_logs: Path | None = None,
) -> Soaked:
    """The deterministic engine under all faults.

    Args:
        minutes: how long new requests are made.
        requests: end after so many of them, however long it takes.
        let_expire: wait at the end until every result should have gone.
        attacked: other keys attack meanwhile, as `benchmarks attack` does.
        appendfsync: of Redis; with `everysec` a kill may lose what was answered while the disk was busy.
        keep_logs: folder for the services' logs; a temporary one where None.
    """
    lease_s = 2.0
    rng = random.Random(f"{seed}/faults")
    common = {**STACK, "LEASE_S": str(lease_s)}
    paced = {**DETERMINISTIC, "DETERMINISTIC_TOKENS_PER_S": "60", "VLLM_MAX_NUM_SEQS": "8"}
    async with open_fleet(
        fronts=3,
        workers=3,
        settings={"orchestrator": common, "llm_worker": {**common, **paced}},
        immortal=frozenset({"orchestrator", "llm_worker"}),
        rng=rng,
        appendfsync=appendfsync,
        keep_logs=keep_logs,
    ) as fleet:
        run = Run(fleet, Faults(fleet, Weights(), lease_s=lease_s, rng=rng))

        def enough(asked: int) -> bool:
            return run.at_s >= minutes * 60 if requests is None else asked >= requests

        async with run.under_faults(every_s), AsyncExitStack() as meanwhile:
            got = (
                await meanwhile.enter_async_context(attacks_beside(fleet.urls)) if attacked else {}
            )
            await ask_all(
                fleet,
                lambda number: deterministic_ask(seed, number),
                clients=clients,
                seed=seed,
                enough=enough,
                outcomes=run.outcomes,
            )
        for name, counted in got.items():
            print(f"{name}: {dict(counted.most_common(6))}")
        return await run.audited(
            seed,
            expire_within_s=QUIET_WITHIN_S if let_expire else None,
            strangers=frozenset(dev_key_id(key_of(name)) for name in ATTACKERS),
        )


async def soak_vllm(
    *,
    minutes: float,
    every_s: float,
    seed: int,
    clients: int,
    requests: int,
    kills: int,
    keep_logs: Path | None = None,
) -> Soaked:
    """The demo model, greedy in fp32, while its two workers are killed in turns.

    Every prompt is asked once undisturbed, then again and again: so often, and at least until so many kills, or until
    `minutes` are over.
    """
    lease_s = 4.0
    rng = random.Random(f"{seed}/faults")
    common = {**STACK, "LEASE_S": str(lease_s)}
    async with open_fleet(
        fronts=2,
        workers=2,
        settings={"orchestrator": common, "llm_worker": {**common, **VLLM_ON_CPU}},
        immortal=frozenset({"orchestrator"}),
        rng=rng,
        keep_logs=keep_logs,
    ) as fleet:
        asks = demo_asks(seed)
        undisturbed: list[Outcome] = []
        await ask_all(
            fleet,
            lambda number: asks[number],
            clients=clients,
            seed=seed,
            enough=lambda asked: asked >= len(asks),
            outcomes=undisturbed,
            label="undisturbed",
        )
        first = {outcome.ask.prompt: outcome for outcome in undisturbed}
        print(
            f"{len(first)} undisturbed answers, {sum(len(one.token_ids) for one in undisturbed)} tokens"
        )
        faults = Faults(fleet, WORKERS_ONLY, lease_s=lease_s, rng=rng)
        run = Run(fleet, faults, before=undisturbed)

        def enough(asked: int) -> bool:
            if run.at_s >= minutes * 60:
                return True
            return asked >= requests and faults.done["kill_worker"] >= kills

        async with run.under_faults(every_s):
            await ask_all(
                fleet,
                lambda number: replace(
                    asks[number % len(asks)],
                    number=number,
                    expected=first[number % len(asks)].answer,
                ),
                clients=clients,
                seed=seed,
                enough=enough,
                outcomes=run.outcomes,
            )
        soaked = await run.audited(seed, expire_within_s=QUIET_WITHIN_S)
    for outcome in soaked.outcomes:
        before = first[outcome.ask.prompt]
        if outcome.token_ids != before.token_ids:
            gap = explain(outcome.ask, before.token_ids, outcome.token_ids)
            outcome.blame("text", f"other tokens than undisturbed: {gap}")
    return soaked


async def run(
    *,
    engine: str,
    minutes: float,
    every_s: float,
    seed: int,
    clients: int,
    attacked: bool,
    appendfsync: str,
    keep_logs: Path | None,
) -> bool:
    """Soak, print the bars. True if none was missed."""
    if engine == "vllm":
        requests, kills = 200, 10
        soaked = await soak_vllm(
            minutes=minutes,
            every_s=every_s,
            seed=seed,
            clients=clients,
            requests=requests,
            kills=kills,
            keep_logs=keep_logs,
        )
        killed = soaked.faults["kill_worker"]
        bars = [
            Bar("workers killed", f">= {kills}", str(killed), killed >= kills),
            *judge(soaked, requests=requests, continued=kills),
        ]
    else:
        soaked = await soak(
            minutes=minutes,
            every_s=every_s,
            seed=seed,
            clients=clients,
            attacked=attacked,
            appendfsync=appendfsync,
            keep_logs=keep_logs,
        )
        # Attackers' keys have most of the machine then.
        share = 0.3 if attacked else 1.0
        bars = judge(
            soaked,
            requests=round(200 * minutes * share),
            continued=round(30 * minutes * share),
        )
    print_report(soaked, bars)
    return all(bar.ok for bar in bars)
