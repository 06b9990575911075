"""`relais COMMAND ...`: one command line, whose commands come with the installed packages.

A package brings a command as an entry point of the group `relais.commands`: a function that takes the arguments after
the command's name and gives an exit code. So no service needs to know another.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import cast

GROUP = "relais.commands"
Command = Callable[[Sequence[str]], int]

OK = 0
FAILED = 1
WRONG_USE = 2
"""Arguments or settings."""

_INTERRUPTED = 130


def main() -> None:
    """The console script `relais`."""
    sys.exit(dispatch(sys.argv[1:], entry_points(group=GROUP)))


def dispatch(arguments: Sequence[str], commands: Sequence[EntryPoint]) -> int:
    """Run the command that the first argument names; gives its exit code."""
    by_name = {command.name: command for command in commands}
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        sys.stdout.write(_usage(by_name))
        return OK
    if name not in by_name:
        if name:
            sys.stderr.write(f"relais: unknown command {name!r}\n")
        sys.stderr.write(_usage(by_name))
        return WRONG_USE
    return run(cast("Command", by_name[name].load()), arguments[1:])


def run(command: Command, arguments: Sequence[str]) -> int:
    """Run a command as a person's: Ctrl-C, and a reader who has seen enough, end it without a traceback."""
    try:
        code = command(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # What is left in the buffer has no reader: the interpreter must not try it again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return code


def _usage(by_name: dict[str, EntryPoint]) -> str:
    lines = ["usage: relais COMMAND [argument...]", ""]
    for name, command in sorted(by_name.items()):
        lines.append(f"  {name:<10}{_summary(command)}")
    return "\n".join([*lines, "", "relais COMMAND --help says more.", ""])


def _summary(command: EntryPoint) -> str:
    """Its package's own description: known without importing it."""
    summary = "" if command.dist is None else command.dist.metadata["Summary"] or ""
    return summary.removeprefix("Relais: ")
