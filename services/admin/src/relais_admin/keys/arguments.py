"""Parses the command line after `relais keys`."""

from __future__ import annotations

from argparse import (
    ArgumentParser,
    ArgumentTypeError,
    RawDescriptionHelpFormatter,
)
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from relais_common.config import api_keys
from relais_common.jobs.channels import model_tag
from relais_common.jobs.job import Priority

_DESCRIPTION = """\
Make, hash, list and revoke the keys in the file that API_KEYS names. Running
orchestrators notice the change within two seconds."""

_EPILOG = """\
A key is printed once, alone on standard output; the file keeps its hash only.
Exit codes: 0 done, 1 a failure or an unknown client, 2 wrong arguments or file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysArguments:
    """A parsed command.

    Attributes:
        client: set for commands that act on a client; None for `hash` of standard input.
        rights: fields of a new entry, as in the file.
    """

    command: str
    file: Path | None
    client: str | None
    add: bool
    rights: dict[str, Any]
    json: bool


def parse(arguments: Sequence[str], default_file: str | None) -> KeysArguments:
    """Parse the arguments. Raises SystemExit: code 2 with a message on stderr, or 0 after help."""
    parser = _parser()
    given = parser.parse_args(arguments)
    file = given.file or default_file
    client = getattr(given, "client", None)
    if file is None and not (given.command == "hash" and client is None):
        parser.error("which file? Set API_KEYS, or give --file")
    fields = {
        "models": getattr(given, "model", None),
        "requests_per_minute": getattr(given, "requests_per_minute", None),
        "tokens_per_minute": getattr(given, "tokens_per_minute", None),
        "tokens_per_day": getattr(given, "tokens_per_day", None),
        "concurrent_requests": getattr(given, "concurrent_requests", None),
        "max_priority": getattr(given, "max_priority", None),
        "structured_outputs": getattr(given, "structured_outputs", None),
        "admin": getattr(given, "admin", None),
    }
    rights = {name: value for name, value in fields.items() if value is not None}
    add = getattr(given, "add", False)
    if add and rights:
        parser.error("--add gives the client one more key; its rights stay as they are")
    return KeysArguments(
        command=given.command,
        file=None if file is None else Path(file),
        client=client,
        add=add,
        rights=rights,
        json=getattr(given, "json", False),
    )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="relais keys",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    shared = ArgumentParser(add_help=False)
    shared.add_argument("--file", metavar="PATH", help="the file (default: API_KEYS)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    create = commands.add_parser("create", parents=[shared], help="a new client, and its key")
    create.add_argument("client", type=_client, metavar="CLIENT")
    create.add_argument(
        "--add", action="store_true", help="one more key for a client that is there: to change keys"
    )
    create.add_argument(
        "--model",
        action="append",
        type=_model,
        help="a model it may use; may be repeated (default: all)",
    )
    daily = partial(_number, largest=api_keys.LARGEST_DAILY)
    for name, what, number in (
        ("requests-per-minute", "of each model", _number),
        ("tokens-per-minute", "of each model", _number),
        ("tokens-per-day", "of each model", daily),
        ("concurrent-requests", "unfinished ones of each model", _number),
    ):
        create.add_argument(f"--{name}", type=number, metavar="N", help=what)
    create.add_argument("--max-priority", choices=[one.value for one in Priority])
    create.add_argument(
        "--structured-outputs",
        action="append",
        choices=api_keys.COSTLY_STRUCTURES,
        help="beyond JSON and choices, what its answers may have to follow; may be repeated "
        "(default: both where ENV=dev, else neither)",
    )
    create.add_argument(
        "--admin", action="store_true", default=None, help="opens the operators' routes"
    )
    hashed = commands.add_parser(
        "hash",
        parents=[shared],
        help="the hash of a key from standard input; or put a client's key in the file as a hash",
    )
    hashed.add_argument("client", nargs="?", type=_client, metavar="CLIENT")
    listed = commands.add_parser("list", parents=[shared], help="who may do what; shows no key")
    listed.add_argument("--json", action="store_true", help="for programs: JSON instead of a table")
    revoke = commands.add_parser(
        "revoke", parents=[shared], help="a client's keys are good no more"
    )
    revoke.add_argument("client", type=_client, metavar="CLIENT")
    return parser


def _client(text: str) -> str:
    if not api_keys.is_key_id(text):
        raise ArgumentTypeError(api_keys.NAME_RULE)
    return text


def _model(text: str) -> str:
    try:
        model_tag(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return text


def _number(text: str, largest: int = api_keys.LARGEST) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(largest))
    if is_number and 1 <= int(text) <= largest:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is no number from 1 to {largest}")
