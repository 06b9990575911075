"""`python -m benchmarks NAME`: runs one of them. Exit code 1 where it has bars and missed one."""

from __future__ import annotations

import argparse
import asyncio
import sys

from benchmarks import (
    attack,
    batch,
    capacity,
    connections,
    embeddings,
    gateways,
    kpi,
    prefixes,
    queue,
    relay,
    serve,
    shards,
    short,
    soak,
)
from relais_testing.leftovers import guarded_run

BENCHMARKS = {
    "relay": relay,
    "short": short,
    "serve": serve,
    "connections": connections,
    "embeddings": embeddings,
    "gateways": gateways,
    "queue": queue,
    "kpi": kpi,
    "soak": soak,
    "attack": attack,
    "batch": batch,
    "capacity": capacity,
    "prefixes": prefixes,
    "shards": shards,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, module in BENCHMARKS.items():
        one = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_options(one)
        one.set_defaults(run=module.run)
    options = vars(parser.parse_args())
    with guarded_run():
        ok = asyncio.run(options.pop("run")(**options))
    if ok is False:
        sys.exit(1)


if __name__ == "__main__":
    main()
