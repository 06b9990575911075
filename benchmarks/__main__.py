"""`python -m benchmarks NAME`: runs one of them."""

from __future__ import annotations

import argparse
import asyncio

from benchmarks import relay


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    one = commands.add_parser("relay", help="streamed chunks through the whole stack, no model")
    one.add_argument("--clients", type=int, default=16)
    one.add_argument("--tokens", type=int, default=200)
    one.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(relay.run(clients=options.clients, tokens=options.tokens, rounds=options.rounds))


if __name__ == "__main__":
    main()
