"""Peers as the registry has them, pinned and hashed. Each has an environment: what they need is not the same."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path(sys.prefix) / "peers"


def python_of(peer: str) -> Path:
    """The Python that has this peer; installs it where that was not done. SystemExit where it cannot be."""
    locked = ROOT / "requirements" / "peers" / f"{peer}.txt"
    digest = hashlib.sha256(locked.read_bytes()).hexdigest()
    folder = FOLDER / peer
    python, stamp = folder / "bin" / "python", folder / "installed"
    if stamp.is_file() and stamp.read_text() == digest:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    uv = Path(sys.prefix) / "bin" / "uv"
    for command in (
        ["venv", "--quiet", "--python", sys.executable, str(folder)],
        [
            "pip",
            "install",
            "--quiet",
            "--python",
            str(python),
            "--require-hashes",
            "-r",
            str(locked),
        ],
    ):
        try:
            done = subprocess.run([uv, *command], capture_output=True, text=True, check=False)
        except OSError as error:
            raise SystemExit(
                f"queue: {peer} needs {uv}: run `make setup` first ({error})"
            ) from error
        if done.returncode:
            raise SystemExit(f"queue: {peer} cannot be installed: {done.stderr.strip()[-500:]}")
    stamp.write_text(digest)
    return python
