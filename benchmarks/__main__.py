"""`python -m benchmarks NAME`: runs one of them."""

from __future__ import annotations

import argparse
import asyncio

from benchmarks import durability, relay


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    one = commands.add_parser("relay", help="streamed chunks through the whole stack, no model")
    one.add_argument("--clients", type=int, default=16)
    one.add_argument("--tokens", type=int, default=200)
    one.add_argument("--rounds", type=int, default=3)
    one.set_defaults(run=relay.run)
    one = commands.add_parser("durability", help="what a Redis that dies forgets")
    one.add_argument("--losses", type=int, default=10)
    one.add_argument("--clients", type=int, default=8)
    one.set_defaults(run=durability.run)
    options = vars(parser.parse_args())
    del options["name"]
    asyncio.run(options.pop("run")(**options))


if __name__ == "__main__":
    main()
