"""`python -m relais_kpi`, for use without the console script `relais`."""

from __future__ import annotations

import sys

from relais_common.runtime.command_line import run
from relais_kpi.command import main

if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
