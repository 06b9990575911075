"""scripts/lib/env.sh: what a fresh machine may lack, said in one line. No test here installs anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from relais_testing.waiting import LIVENESS_S

ROOT = Path(__file__).resolve().parents[3]


def bash(script: str, root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script that has sourced env.sh, with `root` as the repository."""
    return subprocess.run(
        ["bash", "-c", f'set -euo pipefail; . "{ROOT}/scripts/lib/env.sh"; {script}'],
        env={"PATH": os.environ["PATH"], "ROOT": str(root), "PROGRAM": "bootstrap", **environment},
        capture_output=True,
        text=True,
        timeout=LIVENESS_S,
        check=False,
    )


def command(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("bootstrap: ")
    return result.stderr


def test_old_python_is_one_line(tmp_path: Path) -> None:
    old = command(tmp_path / "bin", "old", '[ "$1" = --version ] && echo Python 3.9.2 || exit 1')

    result = bash(f"PYTHON_CANDIDATES=({old}); find_python", tmp_path)

    assert "install Python 3.11 or later" in one_line(result)


def test_python_setting_must_fit(tmp_path: Path) -> None:
    old = command(tmp_path / "bin", "old", "exit 1")

    assert f"PYTHON={old} is not" in one_line(bash("find_python", tmp_path, PYTHON=str(old)))


def test_first_python_that_fits_is_taken(tmp_path: Path) -> None:
    old = command(tmp_path / "bin", "old", "exit 1")
    fits = command(tmp_path / "bin", "fits", "echo 3.12.1")

    assert (
        bash(
            f'PYTHON_CANDIDATES=({old} {fits}); find_python; echo "$PYTHON_COMMAND"', tmp_path
        ).stdout
        == f"{fits}\n"
    )


def test_missing_ensurepip_without_root_names_the_package(tmp_path: Path) -> None:
    python = command(
        tmp_path / "bin", "python", 'case "$2" in *ensurepip*) exit 1 ;; *) echo 3.11 ;; esac'
    )

    line = one_line(
        bash(f"as_root() {{ return 1; }}; PYTHON_COMMAND={python}; require_ensurepip", tmp_path)
    )

    assert "sudo apt-get install python3.11-venv" in line


def test_missing_ensurepip_is_installed_with_root(tmp_path: Path) -> None:
    done = tmp_path / "done"
    python = command(
        tmp_path / "bin",
        "python",
        f'case "$2" in *ensurepip*) [ -e {done} ] ;; *) echo 3.11 ;; esac',
    )
    # The first answer is that of a machine which has never asked for the list of packages.
    apt = f"""
    if [ "$1" = update ]; then touch {tmp_path}/list; exit 0; fi
    [ -e {tmp_path}/list ] && [ "$4" = python3.11-venv ] && touch {done}
    """
    command(tmp_path / "bin", "apt-get", apt)

    result = bash(
        f"as_root() {{ :; }}; PYTHON_COMMAND={python}; require_ensurepip",
        tmp_path,
        PATH=f"{tmp_path}/bin:{os.environ['PATH']}",
    )

    assert result.returncode == 0, result.stderr
    assert "installing the Debian package python3.11-venv" in result.stdout


def test_little_disk_space_is_one_line(tmp_path: Path) -> None:
    command(tmp_path / "bin", "df", "echo Avail; echo 2097152")

    line = one_line(
        bash('require_disk_gb 6 "the build"', tmp_path, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    )

    assert (
        line
        == f"bootstrap: too little disk space in {tmp_path}: the build needs about 6 GB, 2 GB are free\n"
    )


@pytest.mark.parametrize(
    ("words", "explained"),
    [
        ("error: failed to write: No space left on device (os error 28)", "the disk is full"),
        (
            "  cause: dns error: failed to lookup address information",
            "the package index cannot be reached",
        ),
        (
            "Could not find a version: NewConnectionError(...)",
            "the package index cannot be reached",
        ),
        ("error: Hash mismatch for torch", "error: Hash mismatch for torch"),
    ],
)
def test_failed_install_is_explained_in_one_line(
    tmp_path: Path, words: str, explained: str
) -> None:
    result = bash(f'long_step "installing it" bash -c "echo \'{words}\' >&2; exit 2"', tmp_path)

    assert explained in one_line(result)


def test_long_step_says_that_it_lives(tmp_path: Path) -> None:
    result = bash('PROGRESS_EVERY_S=1; long_step "installing it" sleep 2.5', tmp_path)

    assert result.returncode == 0
    assert "bootstrap: installing it: 1 s\n" in result.stdout


def test_dotenv_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# comment\nAPI_PORT=9000\nENV=staging\nexport MODELS='a, b'\nURL=\"http://h/?a=b c\"\n\nnot a line\nLAST=$HOME"
    )

    result = bash('load_dotenv; echo "$API_PORT|$ENV|$MODELS|$URL|$LAST"', tmp_path, ENV="dev")

    assert result.stdout == "9000|dev|a, b|http://h/?a=b c|$HOME\n"


def test_absent_dotenv_is_nothing(tmp_path: Path) -> None:
    assert bash("load_dotenv", tmp_path).returncode == 0


def test_gpu_decides_the_requirements(tmp_path: Path) -> None:
    script = "has_nvidia_gpu() { %s; }; uname() { echo x86_64; }; llm_requirements"

    assert bash(script % "true", tmp_path).stdout == "llm-cuda\n"
    assert bash(script % "false", tmp_path).stdout == "llm-cpu\n"
    assert bash(script % "true", tmp_path, RELAIS_DEVICE="cpu").stdout == "llm-cpu\n"
    assert "set it to cpu or cuda" in one_line(
        bash("llm_requirements", tmp_path, RELAIS_DEVICE="tpu")
    )


def test_other_machines_are_told_that_there_is_no_cpu_build(tmp_path: Path) -> None:
    script = "has_nvidia_gpu() { false; }; uname() { echo aarch64; }; llm_requirements"

    assert "pinned for x86-64 only" in one_line(bash(script, tmp_path))
