"""Logs that a failed test can show: no colours, no variables of every frame."""

from __future__ import annotations

import structlog


def use_plain_logs() -> None:
    """Log one line per event, with a short traceback, to stdout."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        cache_logger_on_first_use=False,
    )
