"""Has errors name fields as the client's API has them: whoever runs a request names those of chats. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from types import TracebackType

from relais_common.jobs.errors import ErrorInfo, RelaisError


class FieldNames:
    """The fields of an API that chats call otherwise. As a context, has errors that leave it name fields so.

    One object serves any number of open requests: it keeps nothing of them.

    Args:
        names: the beginning of a path, as a regular expression, and what replaces it; the first that matches counts.
    """

    def __init__(self, *names: tuple[str, str]) -> None:
        self._names = [(re.compile(rf"(?:{theirs})(?=\.|$)"), ours) for theirs, ours in names]

    def info(self, info: ErrorInfo) -> ErrorInfo:
        """Return the same with the field's own name, also where its message begins with it."""
        param, message = self._own(info.param, info.message)
        return replace(info, param=param, message=message)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if isinstance(error, RelaisError):
            error.param, error.message = self._own(error.param, error.message)

    def _own(self, param: str | None, message: str) -> tuple[str | None, str]:
        for theirs, ours in self._names:
            if param is not None and theirs.match(param):
                own = theirs.sub(ours, param, count=1)
                if message.startswith(param + ":"):
                    message = own + message[len(param) :]
                return own, message
        return param, message
