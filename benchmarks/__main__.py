"""`python -m benchmarks NAME`: runs one of them. Exit code 1 where it has bars and missed one."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from benchmarks import (
    attack,
    connections,
    durability,
    embeddings,
    growth,
    keys,
    kpi,
    proxy,
    queue,
    relay,
    serve,
    soak,
    traces,
)
from benchmarks.attacking.attacks import ATTACKS
from benchmarks.growing.filling import Pressure
from benchmarks.growing.fleet import Load
from relais_testing.leftovers import guarded_run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    one = commands.add_parser("relay", help="streamed frames through the whole stack, no model")
    one.add_argument("--clients", type=int, default=32)
    one.add_argument("--tokens", type=int, default=256)
    one.add_argument("--rounds", type=int, default=5)
    one.add_argument("--client-processes", type=int, default=1)
    one.add_argument(
        "--tokens-per-s", type=float, default=0, help="pace of each stream; 0: as fast as it goes"
    )
    one.add_argument("--appendfsync", choices=["always", "everysec", "no"], default="always")
    one.add_argument("--json", type=Path, dest="json_path", help="file for the table as JSON")
    one.add_argument(
        "--hold", choices=list(relay.SERVERS), help="run one server only, for a profiler"
    )
    one.set_defaults(run=relay.run)
    one = commands.add_parser("serve", help="beside `vllm serve`, over the same model and prompts")
    one.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    one.add_argument("--tokens", type=int, default=128)
    one.add_argument("--rounds", type=int, default=5)
    one.add_argument(
        "--client", choices=serve.CLIENTS, default="ours", help="vllm: `vllm bench serve`"
    )
    one.add_argument(
        "--defaults-too", action="store_true", help="a third server: `vllm serve` as it comes"
    )
    one.add_argument("--hold", action="store_true", help="run Relais only, for a profiler")
    one.set_defaults(run=serve.run)
    one = commands.add_parser("connections", help="what each of many open streams costs")
    one.add_argument("--streams", type=int, default=10_000)
    one.add_argument(
        "--kinds", nargs="+", choices=["native", "openai"], default=["native", "openai"]
    )
    one.add_argument(
        "--watch", type=float, default=30, dest="watch_s", help="seconds idle, then with tokens"
    )
    one.set_defaults(run=connections.run)
    one = commands.add_parser(
        "embeddings", help="vectors, beside the model alone and a plain server"
    )
    one.add_argument("--clients", type=int, default=64)
    one.add_argument("--requests", type=int, default=256, help="of a round, 1 to 32 texts in each")
    one.add_argument("--rounds", type=int, default=5)
    one.add_argument("--threads", type=int, default=1, help="of the encoder, on every side")
    one.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    one.add_argument(
        "--format", choices=["base64", "float"], default="base64", dest="encoding_format"
    )
    one.add_argument(
        "--infinity", type=Path, help="its command, in an environment of its own: one server more"
    )
    one.add_argument("--hold", action="store_true", help="run Relais only, for a profiler")
    one.set_defaults(run=embeddings.run)
    one = commands.add_parser("durability", help="what a Redis that dies forgets")
    one.add_argument("--losses", type=int, default=10)
    one.add_argument("--clients", type=int, default=8)
    one.set_defaults(run=durability.run)
    one = commands.add_parser("keys", help="what keys and limits cost the relay")
    one.add_argument("--clients", type=int, default=32)
    one.add_argument("--tokens", type=int, default=256)
    one.add_argument("--rounds", type=int, default=9)
    one.set_defaults(run=keys.run)
    one = commands.add_parser("traces", help="what traces cost the relay")
    one.add_argument("--clients", type=int, default=32)
    one.add_argument("--tokens", type=int, default=256)
    one.add_argument("--requests", type=int, default=8, help="of each client, one after another")
    one.add_argument("--rounds", type=int, default=15)
    one.add_argument("--tokens-per-s", type=float, default=0, help="pace of each stream; 0: none")
    one.set_defaults(run=traces.run)
    one = commands.add_parser("queue", help="no-op jobs, beside SAQ, streaQ, taskiq and arq")
    one.add_argument("--in-flight", type=int, default=32)
    one.add_argument("--jobs", type=int, default=5000, help="under load, of each queue and round")
    one.add_argument("--alone", type=int, default=200, help="jobs one at a time")
    one.add_argument("--rounds", type=int, default=5)
    one.add_argument("--appendfsync", choices=["always", "everysec", "no"], default="always")
    one.add_argument("--peers", nargs="+", choices=queue.PEERS, default=list(queue.PEERS))
    one.add_argument("--hold", action="store_true", help="run Relais only, for a profiler")
    one.set_defaults(run=queue.run)
    one = commands.add_parser("kpi", help="what rolling traces up costs, and how exact reports are")
    one.add_argument("--traces", type=int, default=1_000_000)
    one.add_argument("--days", type=int, default=30)
    one.add_argument("--folder", type=Path, help="where they are written")
    one.add_argument(
        "--fill-only", action="store_true", help="measure at the next call, with the same folder"
    )
    one.add_argument("--json", type=Path, dest="json_path", help="file for the bars as JSON")
    one.set_defaults(run=kpi.run)
    one = commands.add_parser("proxy", help="what nginx in front costs a stream")
    one.add_argument("--requests", type=int, default=200)
    one.set_defaults(run=proxy.run)
    one = commands.add_parser("growth", help="how cost grows with queues, logs and processes")
    one.add_argument("--parts", nargs="+", choices=growth.PARTS, default=growth.PARTS)
    one.add_argument("--most", type=int, default=100_000, help="the longest queue and log")
    one.add_argument("--rounds", type=int, default=5)
    one.add_argument("--calls", type=int, default=200, help="of each step, size and round")
    one.add_argument("--plots", type=Path, help="folder for SVG files")
    one.add_argument("--json", type=Path, dest="json_path", help="file for the curves as JSON")
    one.set_defaults(
        run=growth.run,
        workers=growth.WORKERS,
        orchestrators=growth.ORCHESTRATORS,
        load=Load(streams=32, tokens=200, tokens_per_s=40),
        pressure=Pressure(
            bound=64 << 20, prompt_tokens=25_000, answer_tokens=2000, seconds=60, keep_s=15
        ),
    )
    one = commands.add_parser("soak", help="nothing lost: load under random faults, then an audit")
    one.add_argument("--engine", choices=["deterministic", "vllm"], default="deterministic")
    one.add_argument("--minutes", type=float, default=10)
    one.add_argument(
        "--every", type=float, default=3, dest="every_s", help="seconds between faults"
    )
    one.add_argument("--seed", type=int, default=1)
    one.add_argument("--clients", type=int, default=40)
    one.add_argument(
        "--attacked", action="store_true", help="other keys attack meanwhile (deterministic only)"
    )
    one.add_argument(
        "--appendfsync",
        choices=["always", "everysec", "no"],
        default="always",
        help="of Redis, under the deterministic engine",
    )
    one.add_argument(
        "--logs", type=Path, dest="keep_logs", help="folder that keeps the services' logs"
    )
    one.set_defaults(run=soak.run)
    one = commands.add_parser("attack", help="what one client can cost the others")
    one.add_argument(
        "names", nargs="*", metavar="NAME", choices=[[], *ATTACKS], help="default: all"
    )
    one.add_argument("--seconds", type=float, default=20, help="of each attack, at the most")
    one.add_argument("--list", action="store_true", dest="list_only", help="name them, and end")
    one.add_argument("--tree", type=Path, help="another checkout, whose services are attacked")
    one.add_argument("--json", type=Path, dest="json_path", help="file for the figures as JSON")
    one.set_defaults(run=attack.run)
    options = vars(parser.parse_args())
    del options["name"]
    with guarded_run():
        ok = asyncio.run(options.pop("run")(**options))
    if ok is False:
        sys.exit(1)


if __name__ == "__main__":
    main()
