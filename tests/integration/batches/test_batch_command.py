"""`relais batch` against an orchestrator."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from relais_testing.batches import encode, lines
from relais_testing.stack import Front, answer_to
from relais_testing.worker import Worker


class Command:
    """The command, pointed at an orchestrator."""

    def __init__(self, url: str) -> None:
        self._env = os.environ | {"OPENAI_BASE_URL": f"{url}/v1"}

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relais_admin.batch", *arguments),
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
def command(front: Front) -> Command:
    return Command(front.url)


def write(folder: Path, content: bytes) -> str:
    """Return the path of an input file."""
    path = folder / "input.jsonl"
    path.write_bytes(content)
    return str(path)


@pytest.fixture
def input_file(tmp_path: Path) -> str:
    return write(tmp_path, encode(lines(6)))


async def test_submitted_file_is_watched_to_its_end_and_downloaded(
    command: Command, worker: Worker, input_file: str, tmp_path: Path
) -> None:
    code, out, _ = await command.run(
        "submit", input_file, "--wait", "--json", "--metadata", "night=1"
    )
    batch = json.loads(out)
    assert (code, batch["status"], batch["metadata"]) == (0, "completed", {"night": "1"})
    output = tmp_path / "output.jsonl"
    assert (await command.run("download", batch["id"], "--output", str(output)))[0] == 0
    found = [json.loads(line) for line in output.read_text().splitlines()]
    said = [one["response"]["body"]["choices"][0]["message"]["content"] for one in found]
    assert said == [answer_to(f"line {number}", 4) for number in range(6)]
    code, out, _ = await command.run("download", batch["id"])
    assert out == output.read_text()
    code, out, err = await command.run("download", batch["id"], "--errors")
    assert (code, out, err) == (1, "", "relais batch: the batch has no failed requests\n")
    code, out, _ = await command.run("list")
    assert (code, batch["id"] in out, "6/6" in out) == (0, True, True)


async def test_batch_that_fails_names_its_wrong_lines(command: Command, tmp_path: Path) -> None:
    input_file = write(tmp_path, encode(lines(1)) + b"{\n")
    code, out, err = await command.run("submit", input_file, "--wait")
    assert code == 1
    assert "failed" in out
    assert "relais batch: line 2: " in err


async def test_cancelled_batch_says_so(command: Command, input_file: str) -> None:
    _, out, _ = await command.run("submit", input_file, "--json")
    batch_id = json.loads(out)["id"]
    code, out, _ = await command.run("cancel", batch_id, "--json")
    assert (code, json.loads(out)["status"]) == (0, "cancelling")
    code, out, _ = await command.run("status", batch_id, "--wait", "--json")
    assert (code, json.loads(out)["status"]) == (1, "cancelled")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["status", "batch_none"], 1, "there is no such batch"),
        (["submit", "no-such-file", "--endpoint", "/v1/completions"], 1, "no-such-file"),
        (["status", "x", "--url", "http://127.0.0.1:1/v1"], 1, "no answer"),
    ],
)
async def test_failures_are_one_line(
    command: Command, arguments: list[str], code: int, message: str
) -> None:
    found, out, err = await command.run(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1


async def test_file_without_a_route_needs_one(command: Command, tmp_path: Path) -> None:
    code, _, err = await command.run("submit", write(tmp_path, b"\n"))
    assert (code, "give --endpoint" in err) == (1, True)
