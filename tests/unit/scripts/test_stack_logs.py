"""`bootstrap.sh logs`: readable for people, unchanged for machines; a failed start's lines are its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from relais_testing.waiting import LIVENESS_S
from stack.logs import last_lines, log_sizes, readable
from stack.model import Program, Run, Stage

ROOT = Path(__file__).resolve().parents[3]
LINE = json.dumps(
    {
        "event": "request_refused",
        "level": "info",
        "timestamp": "2026-11-30T06:00:00Z",
        "service": "orchestrator",
        "code": "invalid_value",
    }
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "logs").mkdir()
    program = Program("orchestrator", "", Stage.ORCHESTRATOR, "127.0.0.1", 1, "API_PORT")
    return Run("id", "", str(tmp_path), "", "m", (), (program,))


def logs(run: Run, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "stack", "logs", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "scripts", "RELAIS_RUN_DIR": run.run_dir},
        capture_output=True,
        text=True,
        timeout=LIVENESS_S,
        check=True,
    ).stdout


def test_a_service_s_line_is_shown_as_on_a_console() -> None:
    shown = readable(LINE)

    assert shown.startswith("2026-11-30T06:00:00Z [info")
    assert "request_refused" in shown
    assert "code=invalid_value" in shown
    assert "{" not in shown
    assert "\x1b" not in shown


def test_a_client_s_text_does_not_control_the_terminal() -> None:
    shown = readable(json.dumps(json.loads(LINE) | {"path": "/v1/\x1b[31m\x9b\u202eé"}))

    assert "path=/v1/\\x1b[31m\\x9b\\u202eé" in shown


@pytest.mark.parametrize(
    "line", ["", "ready", "{", "{}", '{"a": 1}', "[1]", '{"event": 1', "INFO x"]
)
def test_any_other_line_is_shown_as_it_is(line: str) -> None:
    assert readable(line) == line


def test_the_command_is_readable_and_raw_on_demand(run: Run) -> None:
    (run.logs / "orchestrator.log").write_text(f"plain\n{LINE}\n")

    assert logs(run) == f"plain\n{readable(LINE)}\n"
    assert logs(run, "orchestrator", "--json") == f"plain\n{LINE}\n"


def test_a_reader_who_leaves_is_no_failure(run: Run) -> None:
    (run.logs / "orchestrator.log").write_text(f"{LINE}\n" * 50)

    piped = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m stack logs | :"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "scripts", "RELAIS_RUN_DIR": run.run_dir},
        capture_output=True,
        text=True,
        timeout=LIVENESS_S,
        check=False,
    )

    assert (piped.returncode, piped.stderr) == (0, "")


def test_last_lines_are_those_of_this_start(run: Run) -> None:
    log = run.logs / "orchestrator.log"
    assert log_sizes(run) == {}
    log.write_text("earlier\n")
    before = log_sizes(run)

    assert last_lines(run, "orchestrator", 5, after=before) == []
    with log.open("a") as file:
        file.write("now\n")
    assert last_lines(run, "orchestrator", 5, after=before) == ["now"]
    log.write_text("new\n")  # rotated meanwhile, and shorter
    assert last_lines(run, "orchestrator", 5, after=before) == ["new"]
