"""Has errors name fields as the client's API has them: whoever runs a request names those of chats. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from relais_common.jobs.errors import ErrorInfo, RelaisError


class FieldNames:
    """The fields of an API that chats call otherwise.

    Args:
        names: the beginning of a path, as a regular expression, and what replaces it; the first that matches counts.
    """

    def __init__(self, *names: tuple[str, str]) -> None:
        self._names = [(re.compile(rf"(?:{theirs})(?=\.|$)"), ours) for theirs, ours in names]

    def info(self, info: ErrorInfo) -> ErrorInfo:
        """Return the same with the field's own name, also where its message begins with it."""
        param, message = self._own(info.param, info.message)
        return replace(info, param=param, message=message)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Have errors that leave the context name fields so."""
        try:
            yield
        except RelaisError as error:
            error.param, error.message = self._own(error.param, error.message)
            raise

    def _own(self, param: str | None, message: str) -> tuple[str | None, str]:
        for theirs, ours in self._names:
            if param is not None and theirs.match(param):
                own = theirs.sub(ours, param, count=1)
                if message.startswith(param + ":"):
                    message = own + message[len(param) :]
                return own, message
        return param, message
