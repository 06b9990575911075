"""Set-up of structured logs for all services.

Inside `channel_context` each line carries the channel id. Event names contain no values, so that lines
can be counted. Keys, prompts and answers are not logged.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("json", "console")


def setup_logs(service: str, *, level: str = "info", form: str = "json") -> None:
    """Send structlog and standard-library logs to stdout, one JSON object per line (or colours for `console`)."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[structlog.typing.Processor] = (
        [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(
                serializer=lambda value, **_: orjson.dumps(value, default=repr).decode()
            ),
        ]
        if form == "json"
        # Plain: the pretty format prints local variables, including prompts and keys.
        else [
            escape_controls,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    structlog.contextvars.bind_contextvars(service=service)


def escape_controls(_logger: Any, _method: str, line: EventDict) -> EventDict:
    """Escape characters in texts that would control a terminal: clients choose paths and names of fields.

    Line breaks stay: the console's renderer quotes values that have them.
    """
    for name, value in line.items():
        if isinstance(value, str) and not value.isprintable():
            line[name] = "".join(
                one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in value
            )
    return line


@contextmanager
def channel_context(channel_id: str) -> Iterator[None]:
    """Add the channel id to every line that is logged inside."""
    with structlog.contextvars.bound_contextvars(channel_id=channel_id):
        yield
