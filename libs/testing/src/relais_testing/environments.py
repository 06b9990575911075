"""Separate environments for packages that cannot share ours: pinned, hashed, created if missing.

`python -m relais_testing.environments` makes those of `clients` beforehand.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
FOLDER = Path(sys.prefix) / "environments"


def python_of(name: str, *, sees_ours: bool = False) -> Path:
    """Return the Python of an environment with `requirements/NAME.txt`. Raises SystemExit if it cannot be installed.

    Args:
        sees_ours: what is missing there, torch for one, is imported from this environment.
    """
    locked = ROOT / "requirements" / f"{name}.txt"
    folder = FOLDER / name
    python = folder / "bin" / "python"

    def install() -> None:
        _uv(name, "venv", "--quiet", "--python", sys.executable, str(folder))
        to = ["--quiet", "--python", str(python)]
        _uv(name, "pip", "install", *to, "--no-deps", "--require-hashes", "-r", str(locked))
        if sees_ours:
            (site,) = folder.glob("lib/python*/site-packages")
            (site / "relais-sees-ours.pth").write_text(sysconfig.get_path("purelib") + "\n")

    _make(folder, [locked], install)
    return python


def clients() -> tuple[Path, Path]:
    """Return two folders for docs/clients.md: programs (with Python and Node.js), and Node's packages."""
    programs = python_of("clients", sees_ours=True).parent
    files = [ROOT / "requirements" / "node" / f"package{part}.json" for part in ("", "-lock")]
    folder = FOLDER / "node"

    def install() -> None:
        folder.mkdir(parents=True)
        for file in files:
            shutil.copy(file, folder)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error"]
        _run("node", [str(programs / "npm"), "ci", *options], cwd=folder, path=path)

    _make(folder, files, install)
    return programs, folder / "node_modules"


def _make(folder: Path, locked: Iterable[Path], install: Callable[[], None]) -> None:
    """Install into a new folder, unless it was made of these files; one process at a time."""
    digest = hashlib.sha256(b"".join(one.read_bytes() for one in locked)).hexdigest()
    stamp = folder / "installed"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text() == digest:
            return
        shutil.rmtree(folder, ignore_errors=True)
        install()
        stamp.write_text(digest)


def _uv(name: str, *arguments: str) -> None:
    _run(name, [str(Path(sys.prefix) / "bin" / "uv"), *arguments])


def _run(name: str, command: list[str], *, cwd: Path | None = None, path: str = "") -> None:
    environment = {**os.environ, "PATH": path} if path else None
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise SystemExit(f"{name} needs {command[0]}: run `make setup` first ({error})") from error
    if done.returncode:
        raise SystemExit(f"{name} cannot be installed: {done.stderr.strip()[-500:]}")


if __name__ == "__main__":
    clients()
