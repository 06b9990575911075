"""`python -m relais_admin.batch`, for use without the console script `relais`."""

from __future__ import annotations

import sys

from relais_admin.batch.command import main
from relais_common.runtime.command_line import run

if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
