"""`relais COMMAND`: finding commands, and handing over."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from relais_common.runtime.command_line import GROUP, dispatch, run

ROOT = Path(__file__).resolve().parents[3]
GREET = EntryPoint("greet", "no_such_module:greet", GROUP)


def interrupt(_: Sequence[str]) -> int:
    raise KeyboardInterrupt


def declared() -> list[EntryPoint]:
    """The commands of this repository's packages, as their files declare them."""
    return [
        EntryPoint(name, value, GROUP)
        for path in sorted(ROOT.glob("*/*/pyproject.toml"))
        for name, value in tomllib.loads(path.read_text())["project"]
        .get("entry-points", {})
        .get(GROUP, {})
        .items()
    ]


def test_command_gets_what_follows_its_name_and_gives_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Sequence[str]] = []

    def greet(arguments: Sequence[str]) -> int:
        given.append(arguments)
        return 7

    monkeypatch.setattr(EntryPoint, "load", lambda _: greet)
    assert dispatch(["greet", "a", "--b"], [GREET]) == 7
    assert given == [["a", "--b"]]


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["--json"]])
def test_unknown_command_is_wrong_use_and_lists_the_known(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(arguments, [GREET]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "greet" in printed.err


def test_help_lists_the_commands_and_loads_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["--help"], [GREET]) == 0
    assert "greet" in capsys.readouterr().out


def test_help_says_of_each_command_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    dispatch(["--help"], declared())
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    said = {
        line[0]: line[1] for line in lines if line and line[0] in {"admin", "config", "keys", "kpi"}
    }
    assert len(said) == len(set(said.values())) == 4
    assert "keys" in said["keys"]
    assert "settings" in said["config"]


def test_interrupted_command_ends_without_a_traceback() -> None:
    assert run(interrupt, []) == 130


def test_reader_who_leaves_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    def write(_: Sequence[str]) -> int:
        sys.stdout.write("x" * 1_000_000)
        return 0

    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert run(write, []) == 0


def test_every_declared_command_can_be_loaded() -> None:
    commands = declared()
    assert [command.name for command in commands] == ["admin", "batch", "config", "keys", "kpi"]
    assert all(callable(command.load()) for command in commands)
