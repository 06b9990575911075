"""The end of a batch: its input and its results, side by side, become an output file and an error file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from relais_common.jobs.errors import FileNotKnown
from relais_orchestrator.batches.feeding import result_line
from relais_orchestrator.batches.lines import custom_id_of, input_lines, input_of
from relais_orchestrator.batches.parts import BatchParts
from relais_orchestrator.batches.store import Document, LineResult
from relais_orchestrator.files.store import FileWriter


class Merge:
    """Writes the files of one batch; each at its first line.

    Args:
        ends_as: the status that the batch is about to get.
    """

    def __init__(self, parts: BatchParts, batch: Document, ends_as: str) -> None:
        self._parts = parts
        self._batch = batch
        self._ends_as = ends_as
        self._writers: dict[bool, FileWriter] = {}
        self._counts = {True: 0, False: 0}
        self._usage = [0, 0, 0, 0]

    async def run(self) -> Document:
        """Write both files, let clients see them, and return the changes of the batch that name them."""
        await self._parts.files.delete_of_batch(self._batch["_id"])
        try:
            await self._write_lines()
            file_ids = {ok: await self._close(writer) for ok, writer in self._writers.items()}
        except BaseException:
            for writer in self._writers.values():
                await writer.discard()
            raise
        return {
            "output_file_id": file_ids.get(True),
            "error_file_id": file_ids.get(False),
            "counts": {
                "total": sum(self._counts.values()),
                "completed": self._counts[True],
                "failed": self._counts[False],
            },
            "usage": self._usage,
        }

    async def _write_lines(self) -> None:
        results = self._parts.store.results(self._batch["_id"])
        result = await anext(results, None)
        try:
            async for number, text in self._lines():
                # A line that got its result from two holders has one all the same.
                if result is not None and result.line == number:
                    await self._write(result)
                    result = await anext(results, None)
                else:
                    await self._write(self._not_run(number, custom_id_of(text)))
        except FileNotKnown:
            # Somebody has deleted it behind the API's back; what ran is still there.
            while result is not None:
                await self._write(result)
                result = await anext(results, None)

    async def _lines(self) -> AsyncIterator[tuple[int, bytes | None]]:
        file = await input_of(self._parts.files, self._batch)
        async for number, text in input_lines(self._parts, file):
            if number <= self._batch["last_line"]:
                yield number, text

    def _not_run(self, number: int, custom_id: str) -> LineResult:
        request_id = f"{self._batch['_id']}-{number}"
        text = result_line(request_id=request_id, custom_id=custom_id, not_run=self._ends_as)
        return LineResult(number, False, text)

    async def _write(self, result: LineResult) -> None:
        if result.ok not in self._writers:
            kind = "output" if result.ok else "error"
            self._writers[result.ok] = await self._parts.files.create(
                key_id=self._batch["key_id"],
                filename=f"{self._batch['_id']}_{kind}.jsonl",
                purpose="batch_output",
                batch_id=self._batch["_id"],
            )
        await self._writers[result.ok].write(result.text)
        self._counts[result.ok] += 1
        self._usage = [one + more for one, more in zip(self._usage, result.usage, strict=True)]

    async def _close(self, writer: FileWriter) -> str:
        keep_s: Any = self._batch.get("output_keep_s")
        return (await writer.close(keep_s=keep_s)).file_id
