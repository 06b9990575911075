"""`relais keys`: what it writes, what it prints, what it exits with."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from relais_admin.keys import actions
from relais_admin.keys.command import main
from relais_common.config import api_keys


class Keys:
    """The command, with a file that API_KEYS names."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        code = main(arguments)
        printed = self._capsys.readouterr()
        return code, printed.out, printed.err

    def done(self, *arguments: str) -> str:
        code, out, err = self.run(*arguments)
        assert code == 0, err
        return out

    def clients(self) -> dict[str, api_keys.ApiKey]:
        return api_keys.read_file(self.path)

    def write(self, content: Any) -> None:
        self.path.write_text(json.dumps(content))


@pytest.fixture
def keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Keys:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("API_KEYS", str(path))
    return Keys(path, capsys)


def test_created_key_is_printed_once_and_only_its_hash_is_kept(keys: Keys) -> None:
    key = keys.done("create", "client1").strip()
    assert keys.clients()["client1"].digests == (api_keys.digest(key),)
    assert key not in keys.path.read_text()
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    assert key not in keys.done("list") + keys.done("list", "--json")


def test_created_client_has_the_rights_that_were_asked_for(keys: Keys) -> None:
    keys.done(
        *("create", "a", "--model", "m", "--model", "org/n", "--requests-per-minute", "5"),
        *("--tokens-per-minute", "600", "--concurrent-requests", "2", "--max-priority", "low"),
        *("--tokens-per-day", "5000000000"),
        *("--structured-outputs", "regex", "--structured-outputs", "grammar"),
    )
    keys.done("create", "ops", "--admin")
    listed = json.loads(keys.done("list", "--json"))["clients"]
    assert listed[0] == {
        "client": "a",
        "keys": 1,
        "weak": False,
        "admin": False,
        "models": ["m", "org/n"],
        "max_priority": "low",
        "requests_per_minute": 5,
        "tokens_per_minute": 600,
        "tokens_per_day": 5_000_000_000,
        "concurrent_requests": 2,
        "structured_outputs": ["grammar", "regex"],
    }
    assert listed[1]["admin"]
    assert listed[1]["structured_outputs"] is None
    table = keys.done("list")
    assert "ops (admin)" in table
    assert "600" in table


def test_client_that_is_there_is_not_created_again(keys: Keys) -> None:
    keys.done("create", "a")
    before = keys.path.read_bytes()
    code, out, err = keys.run("create", "a")
    assert (code, out) == (1, "")
    assert "--add" in err
    assert keys.path.read_bytes() == before


def test_client_changes_keys_without_a_gap(keys: Keys) -> None:
    old = keys.done("create", "a", "--requests-per-minute", "5").strip()
    new = keys.done("create", "a", "--add").strip()
    entry = keys.clients()["a"]
    assert entry.digests == (api_keys.digest(old), api_keys.digest(new))
    assert entry.requests_per_minute == 5


def test_revoked_client_is_gone_and_the_others_are_as_they_were(keys: Keys) -> None:
    keys.write({"a": "one key in clear, long enough", "b": "another key in clear, long too"})
    before = keys.clients()
    assert keys.run("revoke", "a")[0] == 0
    assert keys.clients() == {"b": before["b"]}
    assert keys.run("revoke", "b")[0] == 0
    assert keys.clients() == {}
    assert keys.run("revoke", "b")[0] == 1


def test_key_in_clear_becomes_a_hash(keys: Keys) -> None:
    keys.write({"a": {"key": "one key in clear, long enough", "admin": True}, "b": "weak"})
    before = keys.clients()
    assert keys.run("hash", "a")[0] == 0
    assert keys.run("hash", "a")[0] == 0
    assert "in clear" not in keys.path.read_text()
    assert keys.clients() == before
    code, _, err = keys.run("hash", "b")
    assert code == 1
    assert "guessed" in err
    assert "weak" not in err


def test_hash_of_a_key_from_standard_input(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    key = api_keys.generate()
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{key}\n"))
    monkeypatch.delenv("API_KEYS")
    assert keys.done("hash") == f"{api_keys.hash_text(key)}\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("password\n"))
    code, out, err = keys.run("hash")
    assert (code, out) == (1, "")
    assert "password" not in err


@pytest.mark.parametrize("content", ["{", '["s3cr3t"]', '{"a": 1}'])
@pytest.mark.parametrize("command", [("create", "b"), ("revoke", "a"), ("list",), ("hash", "a")])
def test_wrong_file_is_left_as_it_is(keys: Keys, content: str, command: tuple[str, ...]) -> None:
    keys.path.write_text(content)
    code, out, err = keys.run(*command)
    assert (code, out) == (2, "")
    assert "s3cr3t" not in err
    assert keys.path.read_text() == content


def test_rights_of_the_file_are_kept_and_a_link_stays_a_link(keys: Keys, tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.write_text("{}")
    real.chmod(0o640)
    keys.path.symlink_to(real)
    keys.done("create", "a")
    assert keys.path.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["keys.json", "real.json"]


def test_process_that_dies_while_it_writes_leaves_the_old_file(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys.done("create", "a")
    before = keys.path.read_bytes()

    def die(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", die)
    code, out, err = keys.run("create", "b")
    assert (code, out) == (1, "")
    assert "No space left" in err
    assert keys.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"]


def test_changes_at_once_are_all_kept(keys: Keys) -> None:
    names = [f"client{number}" for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda name: actions.create(keys.path, name, {}), names))
    assert {name: key.digests for name, key in keys.clients().items()} == {
        name: (api_keys.digest(key),) for name, key in zip(names, created, strict=True)
    }


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("create",),
        ("create", "a b"),
        ("create", "a", "--requests-per-minute", "0"),
        ("create", "a", "--tokens-per-minute", "1e9"),
        ("create", "a", "--tokens-per-minute", "1000000000"),
        ("create", "a", "--max-priority", "highest"),
        ("create", "a", "--model", "m" * 161),
        ("create", "a", "--add", "--admin"),
        ("revoke",),
        ("list", "a"),
    ],
)
def test_wrong_arguments_are_code_2(keys: Keys, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert not keys.path.exists()


def test_no_file_is_code_2(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keys.run("list")[0] == 2  # it does not exist
    monkeypatch.delenv("API_KEYS")
    with pytest.raises(SystemExit) as left:
        main(["list"])
    assert left.value.code == 2


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ran = subprocess.run(
        [sys.executable, "-m", "relais_admin.keys", "create", "a", "--file", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert api_keys.read_file(path)["a"].digests == (api_keys.digest(ran.stdout.strip()),)
