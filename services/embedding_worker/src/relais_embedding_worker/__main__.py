"""Entry point of `relais-embedding-worker`."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import structlog
import uvloop

from relais_common.jobs.errors import SettingsError
from relais_common.runtime.logs import setup_logs
from relais_embedding_worker.app import run
from relais_embedding_worker.settings import read_settings


def main() -> None:
    """Run the worker. Exit codes: 0 after a drain, 1 after a failure, 2 for a wrong setting."""
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        _refuse(error)
    setup_logs(
        "embedding_worker", level=settings.service.log_level, form=settings.service.log_format
    )
    try:
        uvloop.run(run(settings))
    except SettingsError as error:
        _refuse(error)
    except Exception:
        structlog.get_logger(__name__).exception("worker_failed")
        sys.exit(1)


def _refuse(error: SettingsError) -> NoReturn:
    print(f"relais-embedding-worker: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
