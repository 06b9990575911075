from __future__ import annotations

import resource
import subprocess
import sys

from relais_testing.waiting import LIVENESS_S

SCRIPT = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256))
from relais_orchestrator.http.open_files import allow_most_open_files
print(allow_most_open_files(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_of_open_files_becomes_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        timeout=LIVENESS_S,
    )
    assert done.stdout.split() == ["256", "256", "256"]
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
