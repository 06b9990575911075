"""The command that docs/performance.md names, as a reader types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from relais_testing.waiting import LIVENESS_S

ROOT = Path(__file__).resolve().parents[3]


def test_the_benchmarks_start_with_nothing_in_the_environment() -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-m", "benchmarks", "relay", "--help"],
        cwd=ROOT,
        env=environ,
        check=True,
        capture_output=True,
        timeout=LIVENESS_S,
    )
