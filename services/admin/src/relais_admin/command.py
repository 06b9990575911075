"""`relais admin`: settings, arguments, run, exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence

from rich.console import Console
from rich.text import Text

from relais_admin import actions
from relais_admin.actions import Output
from relais_admin.arguments import Arguments, parse
from relais_admin.settings import Settings, read_settings
from relais_common.jobs.errors import DecodeError, RelaisError, SettingsError, StoreUnavailable
from relais_common.queue.redis_store import RedisStore, open_store
from relais_common.runtime.command_line import FAILED, OK, WRONG_USE

Action = Callable[[RedisStore, Arguments, Settings], Awaitable[Output]]

ACTIONS: dict[str, Action] = {
    "queues": actions.queues,
    "workers": actions.workers,
    "channels": actions.channels,
    "dead list": actions.dead_letters,
    "dead show": actions.dead_letter,
    "dead replay": actions.replay,
    "dead drop": actions.drop,
    "cancel": actions.cancel,
}


def main(arguments: Sequence[str]) -> int:
    """Run the command. Exit codes: 0 done, 1 failure or unknown channel, 2 wrong arguments or settings."""
    try:
        settings = read_settings(os.environ)
        wanted = parse(arguments, settings.models, settings.aliases)
        answer = asyncio.run(_run(wanted, settings))
    except SettingsError as error:
        return _complain(str(error), WRONG_USE)
    except StoreUnavailable as error:
        return _complain(f"Redis does not answer: {error.__cause__ or error}", FAILED)
    except RelaisError as error:
        return _complain(error.message, FAILED)
    except DecodeError as error:
        return _complain(f"Redis holds what another version of Relais wrote: {error}", FAILED)
    if wanted.json:
        sys.stdout.write(answer.as_json())
    else:
        Console(highlight=False).print(answer.shown, soft_wrap=isinstance(answer.shown, Text))
    return OK


async def _run(wanted: Arguments, settings: Settings) -> Output:
    outcome: Output | RelaisError | DecodeError
    async with open_store(settings.redis) as store:
        try:
            outcome = await ACTIONS[wanted.command](store, wanted, settings)
        except (RelaisError, DecodeError) as error:
            # Raised through the store's context, it would arrive in an exception group.
            outcome = error
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"relais admin: {message}\n")
    return code
