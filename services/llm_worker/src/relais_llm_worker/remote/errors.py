"""How one try at one server may fail; `RemoteModel` decides what follows."""

from __future__ import annotations

from relais_common.jobs.errors import RelaisError


class TryFailed(Exception):
    """Another try may go well. The message is for the log and names no secret.

    Attributes:
        passed_on: what the client is told where no other try follows; None for a general word.
    """

    passed_on: RelaisError | None = None


class Unreachable(TryFailed):
    """No connection: the server has not seen the request."""


class Busy(TryFailed):
    """The server will take the request later."""

    def __init__(
        self, message: str, passed_on: RelaisError, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.passed_on = passed_on
        self.retry_after_s = retry_after_s


class Misplaced(TryFailed):
    """The server refuses this deployment rather than the request: its key, or a model it does not serve."""

    def __init__(self, message: str, passed_on: RelaisError) -> None:
        super().__init__(message)
        self.passed_on = passed_on


class Lost(TryFailed):
    """The server, or the way to it, was lost with the request on board; or what it says makes no sense."""


class TooMuch(Exception):
    """The server sends more than so many tokens can hold. The same request would bring the same again."""
