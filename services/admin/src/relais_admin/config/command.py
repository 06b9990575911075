"""`relais config check`: reports all missing and invalid settings at once."""

from __future__ import annotations

import difflib
import os
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path

from relais_admin.config.deployment import OWN, inside, problems_of_deployment
from relais_admin.config.env_file import parse
from relais_admin.config.readers import Reader, examine, installed_readers
from relais_common.runtime.command_line import OK, WRONG_USE
from relais_common.runtime.environ import Environ

# Settings of libraries, which are not listed anywhere.
_FOREIGN = (
    "HF_",
    "HUGGING_FACE_",
    "NVIDIA_",
    "OMP_",
    "PYTHON",
    "TORCH",
    "VLLM_",
    "MONGO_",
    "COMPOSE_",
)


def main(arguments: Sequence[str]) -> int:
    """Run the command. Exit codes: 0 if all settings are valid, 2 if not, or for wrong arguments."""
    parser = ArgumentParser(
        prog="relais config",
        description="Settings, looked at before anything starts: all that is missing or wrong, one a line.",
    )
    check = parser.add_subparsers(dest="command", required=True, metavar="COMMAND").add_parser(
        "check",
        help="look at an env file of infra/compose, or at the environment",
        description="Without a file: the environment, as the services that are installed here would read it.",
    )
    check.add_argument("--env-file", type=Path, metavar="FILE", help="of infra/compose")
    wanted = parser.parse_args(arguments)
    readers = installed_readers()
    if wanted.env_file is None:
        found, _ = _of_services(readers, dict.fromkeys(readers, os.environ))
        what = f"the environment, for {', '.join(readers)}"
    else:
        try:
            text = wanted.env_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            sys.stderr.write(f"relais config: {wanted.env_file} cannot be read: {error}\n")
            return WRONG_USE
        found = problems_of_file(text, readers)
        what = str(wanted.env_file)
    if not found:
        sys.stdout.write(f"{what}: nothing is wrong\n")
        return OK
    sys.stderr.write(f"{what}:\n" + "".join(f"  {one}\n" for one in found))
    return WRONG_USE


def problems_of_file(text: str, readers: Mapping[str, Reader]) -> list[str]:
    """Return the problems of an env file of infra/compose, in the order in which to fix them."""
    values, found = parse(text)
    of_services, read = _of_services(readers, {name: inside(name, values) for name in readers})
    return [*found, *problems_of_deployment(values), *of_services, *_unknown(values, read | OWN)]


def _of_services(
    readers: Mapping[str, Reader], environments: Mapping[str, Environ]
) -> tuple[list[str], set[str]]:
    """Return the problems, each with the services that report it, and the names of all settings that are read."""
    found: dict[str, list[str]] = {}
    asked: set[str] = set()
    for name, read in readers.items():
        problems, names = examine(read, environments[name])
        asked |= names
        for problem in problems:
            found.setdefault(problem, []).append(name)
    return [f"{problem} ({', '.join(names)})" for problem, names in found.items()], asked


def _unknown(values: Environ, known: set[str]) -> list[str]:
    """Return problems for settings that nothing reads, which are usually misspelt."""
    found = []
    for name in values:
        if name in known or (
            name.startswith(_FOREIGN) and not difflib.get_close_matches(name, known, 1, 0.9)
        ):
            continue
        close = difflib.get_close_matches(name, known, 1)
        found.append(f"{name} is no setting" + (f"; is {close[0]} meant?" if close else ""))
    return found
