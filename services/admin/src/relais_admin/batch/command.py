"""`relais batch`: arguments, run, exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import open as open_with_progress
from rich.table import Table

from relais_admin.batch.arguments import BatchArguments, parse
from relais_admin.batch.client import ENDED, ApiError, Batch, BatchApi, open_api
from relais_common.jobs.errors import RelaisError
from relais_common.runtime import environ
from relais_common.runtime.command_line import FAILED, OK

_ON_STDERR = Console(stderr=True, highlight=False)


def main(arguments: Sequence[str]) -> int:
    """Run the command. Exit codes: 0 done, 1 failure or a batch that did not complete, 2 wrong arguments."""
    wanted = parse(arguments, environ.optional_text(os.environ, "OPENAI_BASE_URL"))
    try:
        return asyncio.run(_run(wanted, environ.optional_text(os.environ, "OPENAI_API_KEY")))
    except RelaisError as error:
        return _complain(error.message)
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}")


async def _run(wanted: BatchArguments, key: str | None) -> int:
    async with open_api(wanted.url, key) as api:
        match wanted.command:
            case "list":
                _show(await api.list(), json=wanted.json)
                return OK
            case "download":
                await _download(api, wanted)
                return OK
            case "submit":
                batch = await _submit(api, wanted)
            case "cancel":
                batch = await api.cancel(wanted.batch_id)
            case _:
                batch = await api.show(wanted.batch_id)
        if wanted.wait:
            batch = await _watch(api, batch)
    _show([batch], json=wanted.json)
    for error in (batch["errors"] or {"data": []})["data"]:
        _say(f"line {error['line']}: {error['message']}" if error["line"] else error["message"])
    has_failed = batch["status"] in ENDED and batch["status"] != "completed"
    return FAILED if has_failed and wanted.command != "cancel" else OK


async def _submit(api: BatchApi, wanted: BatchArguments) -> Batch:
    assert wanted.file is not None
    endpoint = wanted.endpoint or _endpoint_of(wanted.file)
    with open_with_progress(
        wanted.file, "rb", description="upload", console=_ON_STDERR, transient=True
    ) as content:
        file_id = await api.upload(content, wanted.file.name)
    return await api.create(
        file_id, endpoint=endpoint, window=wanted.window, metadata=wanted.metadata
    )


def _endpoint_of(file: Path) -> str:
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        return str(orjson.loads(first)["url"])
    except (ValueError, LookupError, TypeError):
        raise ApiError(f"{file}: its first line names no url; give --endpoint") from None


async def _watch(api: BatchApi, batch: Batch) -> Batch:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("{task.fields[failed]}"), TimeRemainingColumn(), console=_ON_STDERR
    ) as progress:
        task = progress.add_task(batch["status"], failed="")
        async for batch in api.watch(batch["id"]):  # noqa: B020
            counts = batch["request_counts"]
            progress.update(
                task,
                description=batch["status"],
                total=counts["total"] or None,
                completed=counts["completed"] + counts["failed"],
                failed=f"{counts['failed']} failed" if counts["failed"] else "",
            )
    return batch


async def _download(api: BatchApi, wanted: BatchArguments) -> None:
    batch = await api.show(wanted.batch_id)
    if batch["status"] not in ENDED:
        raise ApiError(f"the batch has not ended: its status is {batch['status']}")
    file_id = batch["error_file_id" if wanted.errors else "output_file_id"]
    if file_id is None:
        kind = "failed requests" if wanted.errors else "responses"
        raise ApiError(f"the batch has no {kind}")
    if wanted.output is None:
        await api.download(file_id, sys.stdout.buffer)
        return
    part = wanted.output.with_name(f"{wanted.output.name}.part")
    with part.open("wb") as output:
        await api.download(file_id, output)
    part.replace(wanted.output)


def _show(batches: Sequence[Batch], *, json: bool) -> None:
    if json:
        for one in batches:
            sys.stdout.write(orjson.dumps(one).decode() + "\n")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("BATCH", "STATUS", "MODEL", "DONE", "FAILED", "RATE/S", "ENDS"):
        table.add_column(name, no_wrap=True)
    for one in batches:
        counts, progress = one["request_counts"], one["progress"] or {}
        table.add_row(
            one["id"],
            one["status"],
            one["model"] or "-",
            f"{counts['completed']}/{counts['total']}",
            str(counts["failed"]),
            _text(progress.get("requests_per_s")),
            _moment(progress.get("estimated_end_at")),
        )
    Console(highlight=False).print(table)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _moment(at_s: int | None) -> str:
    return "-" if at_s is None else f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M}Z"


def _say(message: str) -> None:
    sys.stderr.write(f"relais batch: {message}\n")


def _complain(message: str) -> int:
    _say(message)
    return FAILED
