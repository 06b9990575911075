"""Entry point of `relais-orchestrator`."""

from __future__ import annotations

import os
import sys

import structlog
import uvloop

from relais_common.jobs.errors import SettingsError
from relais_common.runtime import garbage, heap
from relais_common.runtime.logs import setup_logs
from relais_orchestrator.app import run
from relais_orchestrator.settings import read_settings


def main() -> None:
    """Run the orchestrator. Exit codes: 0 after a drain, 1 after a failure, 2 for a wrong setting."""
    try:
        settings = read_settings(os.environ)
        garbage.relax_gc_thresholds()
        heap.give_back()
        setup_logs("orchestrator", level=settings.log_level, form=settings.log_format)
        uvloop.run(run(settings))
    except SettingsError as error:
        print(f"relais-orchestrator: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"relais-orchestrator: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except Exception:
        structlog.get_logger(__name__).exception("orchestrator_failed")
        sys.exit(1)


if __name__ == "__main__":
    main()
