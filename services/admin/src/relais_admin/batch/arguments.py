"""Parses the command line after `relais batch`."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_URL = "http://localhost:8080/v1"

_DESCRIPTION = """\
Submit files of requests as batches, watch them, and download what came of them."""

_EPILOG = """\
OPENAI_BASE_URL and OPENAI_API_KEY say where, and with which key, as for OpenAI's
client. Exit codes: 0 done, 1 a failure, or a batch that did not complete,
2 wrong arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchArguments:
    """A parsed command.

    Attributes:
        url: base of the API, with `/v1`.
        endpoint: None for the route that the file's first line names.
        wait: whether to watch until the end.
        output: where to write what is downloaded; None for standard output.
    """

    command: str
    url: str
    json: bool = False
    batch_id: str = ""
    file: Path | None = None
    endpoint: str | None = None
    window: str = "24h"
    metadata: dict[str, str] = field(default_factory=dict)
    wait: bool = False
    errors: bool = False
    output: Path | None = None


def parse(arguments: Sequence[str], default_url: str | None) -> BatchArguments:
    """Parse the arguments. Raises SystemExit: code 2 with a message on stderr, or 0 after help."""
    given = vars(_parser(default_url or DEFAULT_URL).parse_args(arguments))
    if "metadata" in given:
        given["metadata"] = dict(given["metadata"])
    return BatchArguments(**given)


def _parser(default_url: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog="relais batch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    shared = ArgumentParser(add_help=False)
    shared.add_argument("--url", default=default_url, help="base of the API (default: %(default)s)")
    shown = ArgumentParser(add_help=False, parents=[shared])
    shown.add_argument("--json", action="store_true", help="for programs: the batch as JSON")
    one = ArgumentParser(add_help=False)
    one.add_argument("batch_id", metavar="BATCH")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    submit = commands.add_parser(
        "submit", parents=[shown], help="upload a file of requests, one per line, and run it"
    )
    submit.add_argument("file", type=Path, metavar="FILE")
    submit.add_argument(
        "--endpoint", help="the requests' route (default: the one that the first line names)"
    )
    submit.add_argument(
        "--window", default="24h", help="time to complete, 1h to 168h (default: %(default)s)"
    )
    submit.add_argument(
        "--metadata",
        action="append",
        default=[],
        type=_pair,
        metavar="NAME=VALUE",
        help="a label; may be repeated",
    )
    submit.add_argument("--wait", action="store_true", help="watch it until its end")
    commands.add_parser("list", parents=[shown], help="the key's last batches")
    status = commands.add_parser("status", parents=[shown, one], help="how far a batch is")
    status.add_argument("--wait", action="store_true", help="watch it until its end")
    commands.add_parser("cancel", parents=[shown, one], help="run no more of a batch")
    download = commands.add_parser(
        "download", parents=[shared, one], help="the responses of a batch that has ended"
    )
    download.add_argument("--errors", action="store_true", help="the failed requests instead")
    download.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, sep, value = text.partition("=")
    if not name or not sep:
        raise ArgumentTypeError("NAME=VALUE, please")
    return name, value
