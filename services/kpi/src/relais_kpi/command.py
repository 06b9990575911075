"""`relais kpi`: settings, arguments, run, exit code."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import orjson
from rich.console import Console

from relais_common.insights.mongo import ConnectionFailure, PyMongoError, open_database
from relais_common.insights.objectives import parse_objectives
from relais_common.insights.periods import parse_period
from relais_common.insights.report import Axis, Report
from relais_common.insights.store import read_report
from relais_common.jobs.errors import SettingsError
from relais_common.runtime.command_line import FAILED, OK, WRONG_USE
from relais_kpi.arguments import parse
from relais_kpi.progress import Progress
from relais_kpi.rendering import table
from relais_kpi.rendering.contents import read_page
from relais_kpi.rendering.page import render_page
from relais_kpi.rendering.rows import render_csv
from relais_kpi.rolling.job import Run, roll_up_new
from relais_kpi.rolling.lock import LockHeld, Superseded
from relais_kpi.settings import Settings, read_settings
from relais_kpi.simulation.insert import Refused, insert_simulated
from relais_kpi.simulation.traffic import simulate

AT_WORK = 3
"""Exit code if another run holds the lock: nothing was done, which is not an error."""

WIDTH = 80
_TERMINATED = 128 + signal.SIGTERM

Command = Callable[[Namespace, Settings], Awaitable[int]]


def main(arguments: Sequence[str]) -> int:
    """Run the command. Exit codes: 0 done, 1 failure, 2 wrong arguments or settings, 3 another run is active."""
    wanted = parse(arguments)
    try:
        settings = read_settings(os.environ)
        return asyncio.run(_until_terminated(COMMANDS[wanted.command](wanted, settings)))
    except SettingsError as error:
        return _complain(str(error), WRONG_USE)
    except LockHeld as error:
        return _complain(str(error), AT_WORK)
    except (Superseded, Refused) as error:
        return _complain(str(error), FAILED)
    except ConnectionFailure as error:
        return _complain(f"MongoDB does not answer: {_first_line(error)}", FAILED)
    except PyMongoError as error:
        return _complain(f"MongoDB: {_first_line(error)}", FAILED)
    except asyncio.CancelledError:
        return _complain("stopped; the next run goes on", _TERMINATED)


async def _until_terminated(work: Awaitable[int]) -> int:
    """Handle SIGTERM like Ctrl-C, so that locks are released."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await work
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _rollup(wanted: Namespace, settings: Settings) -> int:
    async with open_database(settings.mongo) as database:
        with Progress(quiet=wanted.quiet) as show:
            run = await roll_up_new(
                database,
                now=_now,
                kept=settings.kept,
                everything=wanted.rebuild,
                progress=lambda done, total, read: show(
                    done, total, f"hours, {read:,} traces read"
                ),
            )
    if not wanted.quiet:
        sys.stdout.write(_told(run))
    return OK


async def _report(wanted: Namespace, settings: Settings) -> int:
    now = _now()
    try:
        period = parse_period(wanted.since, wanted.until, now=now)
        objectives = parse_objectives(wanted.slo)
    except ValueError as error:
        return _complain(str(error), WRONG_USE)
    by = Axis(wanted.by)
    async with open_database(settings.mongo) as database:
        if wanted.format == "html":
            text = render_page(await read_page(database, period, by=by, objectives=objectives), now)
        else:
            report = await read_report(database, period, by=by, objectives=objectives)
            text = _rendered(report, wanted, now)
    if wanted.output is None:
        sys.stdout.write(text)
        return OK
    try:
        await asyncio.to_thread(wanted.output.write_text, text, encoding="utf-8")
    except OSError as error:
        return _complain(f"{wanted.output}: {error.strerror}", FAILED)
    return OK


def _rendered(report: Report, wanted: Namespace, now: datetime) -> str:
    if wanted.format == "json":
        return orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n"
    if wanted.format == "csv":
        return render_csv(report)
    # Colours only on a terminal.
    to_terminal = wanted.output is None and sys.stdout.isatty()
    console = Console(
        file=io.StringIO(),
        highlight=False,
        width=None if to_terminal else WIDTH,
        force_terminal=to_terminal,
    )
    console.print(table.render(report, now))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


async def _simulate(wanted: Namespace, settings: Settings) -> int:
    made = simulate(traces=wanted.traces, days=wanted.days, seed=wanted.seed, until=_now())
    async with open_database(settings.mongo) as database:
        with Progress(quiet=wanted.quiet) as show:
            written = await insert_simulated(
                database,
                made,
                seed=wanted.seed,
                force=wanted.force,
                progress=lambda done: show(done, wanted.traces, "traces written"),
            )
    if not wanted.quiet:
        sys.stdout.write(
            f"{written:,} simulated traces written into the database {settings.mongo.database!r};"
            " next: relais kpi rollup\n"
        )
    return OK


COMMANDS: dict[str, Command] = {"rollup": _rollup, "report": _report, "simulate": _simulate}


def _told(run: Run) -> str:
    until = "" if run.watermark is None else f"; up to {run.watermark:%Y-%m-%d %H:%M:%S} UTC"
    frozen = f", frozen: {run.frozen}" if run.frozen else ""
    return (
        f"hours rolled up: {run.computed}, from traces: {run.traces_read:,}; "
        f"unchanged: {run.unchanged}{frozen}{until}\n"
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _first_line(error: Exception) -> str:
    """Return the first line, without the driver's description of every server."""
    return str(error).partition(", Timeout:")[0].partition("\n")[0]


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"relais kpi: {message}\n")
    return code
