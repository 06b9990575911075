"""`relais keys`: arguments, run, exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson
from rich.console import Console

from relais_admin.keys import actions, listing
from relais_admin.keys.arguments import KeysArguments, parse
from relais_common.config import api_keys
from relais_common.jobs.errors import RelaisError, SettingsError
from relais_common.runtime import environ
from relais_common.runtime.command_line import FAILED, OK, WRONG_USE


def main(arguments: Sequence[str]) -> int:
    """Run the command. Exit codes: 0 done, 1 failure or unknown client, 2 wrong arguments or file."""
    wanted = parse(arguments, environ.optional_text(os.environ, api_keys.SETTING))
    try:
        if wanted.file is None:
            _hash_standard_input()
        else:
            _run(wanted, wanted.file)
    except SettingsError as error:
        return _complain(str(error), WRONG_USE)
    except RelaisError as error:
        return _complain(error.message, FAILED)
    except OSError as error:
        return _complain(f"{error.filename or wanted.file}: {error.strerror}", FAILED)
    return OK


def _run(wanted: KeysArguments, path: Path) -> None:
    client = wanted.client or ""
    match wanted.command:
        case "create" if wanted.add:
            _show_key(client, actions.add(path, client))
        case "create":
            _show_key(client, actions.create(path, client, wanted.rights))
        case "hash" if wanted.client is None:
            _hash_standard_input()
        case "hash":
            done = actions.hash_in_file(path, client)
            _say(f"{client}: {'its key is a hash now' if done else 'was a hash already'}")
        case "list":
            _list(path, json=wanted.json)
        case "revoke":
            actions.revoke(path, client)
            _say(f"{client}: its keys are good no more")


def _show_key(client: str, key: str) -> None:
    _say(f"the key of {client}; it is not shown again:")
    sys.stdout.write(f"{key}\n")


def _hash_standard_input() -> None:
    # Not an argument, because every user of the machine can see those.
    key = sys.stdin.readline().strip()
    actions.refuse_weak(key)
    sys.stdout.write(f"{api_keys.hash_text(key)}\n")


def _list(path: Path, *, json: bool) -> None:
    keys = api_keys.read_file(path)
    if json:
        body = {"clients": listing.as_objects(keys)}
        sys.stdout.write(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        Console(highlight=False).print(listing.as_table(keys))


def _say(message: str) -> None:
    sys.stderr.write(f"relais keys: {message}\n")


def _complain(message: str, code: int) -> int:
    _say(message)
    return code
