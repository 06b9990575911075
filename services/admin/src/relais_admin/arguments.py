"""Parses the command line after `relais admin`."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relais_common.jobs.channels import channel_model, model_tag
from relais_common.jobs.inspection import ChannelFilter

MAX_LIMIT = 1000

_DESCRIPTION = """\
Look at the queues in Redis, and act on single requests.

Redis is found by REDIS_URL, or REDIS_HOST, REDIS_PORT and REDIS_PASSWORD, as for
the services. CHANNEL is a whole channel id or, for one model, the part from its
last dot on, as the tables show it."""

_EPILOG = """\
Exit codes: 0 done, 1 a failure or an unknown channel, 2 wrong arguments or
settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """A parsed command.

    Attributes:
        models: the models to show; for `workers`, none means all.
        channel_id: set for commands that act on one channel.
    """

    command: str
    json: bool
    models: tuple[str, ...]
    channel_id: str
    limit: int
    which: ChannelFilter
    latest: bool


def parse(
    arguments: Sequence[str], default_models: tuple[str, ...], aliases: Mapping[str, str]
) -> Arguments:
    """Parse the arguments. `aliases` are other names of models.

    Raises SystemExit: code 2 with a message on stderr, or 0 after help.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    command = _command(given, parser)
    named = given.model or (() if command == "workers" else default_models)
    models = tuple(dict.fromkeys(aliases.get(model, model) for model in named))
    for model in models:
        try:
            model_tag(model)
        except ValueError as error:
            parser.error(f"--model {model!r}: {error}")
    channel = getattr(given, "channel", None)
    return Arguments(
        command=command,
        json=given.json,
        models=models,
        channel_id="" if channel is None else _channel_id(channel, models, parser),
        limit=getattr(given, "limit", 1),
        which=ChannelFilter(getattr(given, "status", ChannelFilter.ALL)),
        latest=getattr(given, "latest", False),
    )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="relais admin",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    shared = ArgumentParser(add_help=False)
    shared.add_argument(
        "--model", action="append", help="the model, or an alias; may be repeated (default: MODELS)"
    )
    shared.add_argument("--json", action="store_true", help="for programs: JSON instead of tables")
    page = ArgumentParser(add_help=False)
    page.add_argument(
        "--limit", type=_limit, default=50, metavar="N", help="of each model (default: 50)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("queues", parents=[shared], help="what waits and runs, of each model")
    commands.add_parser("workers", parents=[shared], help="who is alive (default: of all models)")
    channels = commands.add_parser(
        "channels", parents=[shared, page], help="living requests, the soonest deadline first"
    )
    channels.add_argument(
        "--status", choices=[one.value for one in ChannelFilter], default="all", help="default: all"
    )
    channels.add_argument("--latest", action="store_true", help="the latest deadline first")
    dead = commands.add_parser(
        "dead", parents=[shared, page], help="requests that were set aside, the newest first"
    )
    dead.add_argument(
        "action", nargs="?", choices=["list", "show", "replay", "drop"], default="list"
    )
    dead.add_argument("channel", nargs="?", metavar="CHANNEL")
    cancel = commands.add_parser(
        "cancel", parents=[shared], help="end a waiting or running request"
    )
    cancel.add_argument("channel", metavar="CHANNEL")
    return parser


def _limit(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is no number from 1 to {MAX_LIMIT}")


def _command(given: Namespace, parser: ArgumentParser) -> str:
    if given.command != "dead":
        return str(given.command)
    if given.action == "list" and given.channel is not None:
        parser.error("dead list takes no CHANNEL")
    if given.action != "list" and given.channel is None:
        parser.error(f"dead {given.action} needs a CHANNEL")
    return f"dead {given.action}"


def _channel_id(channel: str, models: tuple[str, ...], parser: ArgumentParser) -> str:
    if channel.startswith("."):
        if len(models) != 1:
            parser.error(f"{channel}: of which model? Give --model, or the whole channel id")
        channel = model_tag(models[0]) + channel
    try:
        channel_model(channel)
    except ValueError:
        parser.error(f"{channel!r} is no channel id")
    return channel
