"""The commands of scripts/bootstrap.sh, which has checked the arguments."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from pathlib import Path

from stack.errors import StackError, StopRequested
from stack.logs import show
from stack.model import Run
from stack.plan import Counts, run_directory
from stack.progress import say
from stack.start import start
from stack.status import print_status
from stack.stop import say_stopped, take_down

_ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    # Ours, for this process; the services have no use for it.
    os.environ.pop("PYTHONPATH", None)
    arguments = _parse()
    try:
        return _run(arguments)
    except StopRequested as stop:
        say("interrupted")
        return 128 + int(stop.args[0])
    except StackError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # Whoever read this has left (`| head`): the interpreter must not flush the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(
                f"the disk is full: free some space ({error.filename or run_directory(_ROOT, os.environ)})"
            )
        return _fail(f"{error.strerror or error}: {error.filename or 'no file'}")


def _run(arguments: argparse.Namespace) -> int:
    run_dir = run_directory(_ROOT, os.environ)
    if arguments.command == "start":
        counts = Counts(
            orchestrators=arguments.orchestrators,
            llm_workers=arguments.llm_workers,
            embedding_workers=arguments.embedding_workers,
            mongodb=not arguments.no_mongodb,
        )
        start(_ROOT, os.environ, counts, detach=arguments.detach)
        return 0
    if arguments.command == "logs":
        show(run_dir, arguments.name, follow=arguments.f, raw=arguments.json)
        return 0
    run = Run.load(run_dir)
    if run is None:
        print("nothing is running")
        return 0 if arguments.command == "down" else 1
    if arguments.command == "status":
        return 0 if print_status(run) else 1
    say_stopped(take_down(run))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bootstrap.sh")
    commands = parser.add_subparsers(dest="command", required=True)
    begin = commands.add_parser("start")
    begin.add_argument("--detach", action="store_true")
    begin.add_argument("--orchestrators", type=int, default=1)
    begin.add_argument("--llm-workers", type=int, default=1)
    begin.add_argument("--embedding-workers", type=int, default=1)
    begin.add_argument("--no-mongodb", action="store_true")
    commands.add_parser("status")
    commands.add_parser("down")
    logs = commands.add_parser("logs")
    logs.add_argument("name", nargs="?")
    logs.add_argument("-f", action="store_true")
    logs.add_argument("--json", action="store_true")
    return parser.parse_args()


def _fail(message: str) -> int:
    print(f"bootstrap: {message}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
