"""What stands on the command line after `relais kpi`."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from relais_common.insights.report import Axis

FORMATS = ("table", "html", "json", "csv")
MAX_COUNT = 100_000_000
MAX_SEED_DIGITS = 9

_DESCRIPTION = """\
Key figures of what was served: traces into hourly rollups, rollups into reports.

MongoDB is found by MONGODB_URL and MONGODB_DATABASE, as for the orchestrators."""

_PERIODS = """\
Key figures of a period of whole hours, beside those of the one before.

WHEN is a length such as 24h, 7d or 2w (--since: so long before --until), a day
such as 2026-11-28 (--until: that day included), or a time such as
2026-11-28T14:00; in UTC where it says nothing else. Objectives are steps such
as 1s, 1.5s or 250ms; others are taken down to the next step."""

_EPILOG = """\
Exit codes: 0 done, 1 a failure, 2 wrong arguments or settings, 3 another run is
at work and nothing was done."""


def parse(arguments: Sequence[str]) -> Namespace:
    """Raises SystemExit: code 2 with a message on stderr, or 0 after help."""
    parser = ArgumentParser(
        prog="relais kpi",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    rollup = commands.add_parser(
        "rollup", help="bring the hourly rollups up to date with the traces"
    )
    rollup.add_argument(
        "--rebuild",
        action="store_true",
        help="compute every hour anew whose traces are all still there",
    )
    rollup.add_argument("--quiet", action="store_true", help="no progress and no summary")
    report = commands.add_parser(
        "report",
        help="what was served in a period, and how well",
        description=_PERIODS,
        formatter_class=RawDescriptionHelpFormatter,
    )
    report.add_argument("--since", metavar="WHEN", help="default: 24h")
    report.add_argument(
        "--until", metavar="WHEN", help="default: the end of the last hour that is over"
    )
    report.add_argument(
        "--by", choices=[one.value for one in Axis], default="model", help="default: model"
    )
    report.add_argument(
        "--slo",
        metavar="OBJECTIVES",
        default="ttft=1s,tpot=50ms,e2e=10s",
        help="bounds that a request has to keep all of to count as goodput (default: %(default)s)",
    )
    report.add_argument(
        "--format", choices=FORMATS, default="table", help="default: table, in 80 columns"
    )
    report.add_argument(
        "--output", type=Path, metavar="FILE", help="write there, not to standard output"
    )
    simulate = commands.add_parser(
        "simulate", help="fill an empty database with made-up traces, to try reports"
    )
    simulate.add_argument(
        "--traces", type=_count, default=100_000, metavar="N", help="how many (default: 100000)"
    )
    simulate.add_argument(
        "--days", type=_count, default=14, metavar="D", help="up to now (default: 14)"
    )
    simulate.add_argument(
        "--seed", type=_seed, default=1, metavar="S", help="another one, other traces (default: 1)"
    )
    simulate.add_argument(
        "--force", action="store_true", help="also into a database that has real traces"
    )
    simulate.add_argument("--quiet", action="store_true", help="no progress and no summary")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_COUNT:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is no number from 1 to {MAX_COUNT}")


def _seed(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= MAX_SEED_DIGITS:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is no number of at most {MAX_SEED_DIGITS} digits")
