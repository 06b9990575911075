"""The ways in which one try at one server fails; `RemoteModel` decides what follows."""

from __future__ import annotations

from relais_common.jobs.errors import RelaisError


class TryFailed(Exception):
    """Another try may succeed. The message is for the log and contains no secret.

    Attributes:
        passed_on: the client's error if no other try follows; None for a general one.
    """

    passed_on: RelaisError | None = None


class Unreachable(TryFailed):
    """There was no connection: the server has not seen the request."""


class Busy(TryFailed):
    """The server will take the request later."""

    def __init__(
        self, message: str, passed_on: RelaisError, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.passed_on = passed_on
        self.retry_after_s = retry_after_s


class Misplaced(TryFailed):
    """The server refuses this deployment rather than the request: its key, or a model it does not serve.

    Attributes:
        status: its answer.
    """

    def __init__(self, message: str, passed_on: RelaisError, status: int) -> None:
        super().__init__(message)
        self.passed_on = passed_on
        self.status = status


class Lost(TryFailed):
    """The connection was lost during the request, or the response makes no sense."""


class TooMuch(Exception):
    """The server sends more than the requested tokens can hold; another try would do the same."""
