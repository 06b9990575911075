"""The command line `relais COMMAND ...`, whose commands come from the installed packages.

A package adds a command as an entry point of the group `relais.commands`: a function that takes the arguments after
the command's name and returns an exit code. Services therefore do not depend on each other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from relais_common import __version__

GROUP = "relais.commands"
Command = Callable[[Sequence[str]], int]

OK = 0
FAILED = 1
WRONG_USE = 2
"""Exit code for wrong arguments or settings."""

_INTERRUPTED = 130


def main() -> None:
    """The console script `relais`."""
    sys.exit(dispatch(sys.argv[1:], entry_points(group=GROUP)))


def dispatch(arguments: Sequence[str], commands: Sequence[EntryPoint]) -> int:
    """Run the command that the first argument names, and return its exit code."""
    by_name = {command.name: command for command in commands}
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        sys.stdout.write(_usage(by_name))
        return OK
    if name in ("-V", "--version"):
        sys.stdout.write(f"relais {__version__}\n")
        return OK
    if name not in by_name:
        if name:
            sys.stderr.write(f"relais: unknown command {name!r}\n")
        sys.stderr.write(_usage(by_name))
        return WRONG_USE
    return run(cast("Command", by_name[name].load()), arguments[1:])


def run(command: Command, arguments: Sequence[str]) -> int:
    """Run a command interactively: Ctrl-C and a closed pipe end it without a traceback."""
    try:
        code = command(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The rest of the buffer has no reader: the interpreter must not flush it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return code


def _usage(by_name: dict[str, EntryPoint]) -> str:
    lines = ["usage: relais COMMAND [argument...]", ""]
    for name, command in sorted(by_name.items()):
        lines.append(f"  {name:<10}{_summary(command)}")
    return "\n".join(
        [*lines, "", "relais COMMAND --help says more; relais --version prints the version.", ""]
    )


def _summary(command: EntryPoint) -> str:
    """Return the first line of the docstring of the command's package; the command itself is not imported."""
    try:
        package = import_module(command.module.rpartition(".")[0])
    except (ImportError, ValueError):
        return ""
    return (package.__doc__ or "").partition("\n")[0].rpartition(": ")[2].rstrip(".")
