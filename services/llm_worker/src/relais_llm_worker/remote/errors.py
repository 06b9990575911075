"""How one try at one server may fail; `RemoteModel` decides what follows. None of these reaches a client."""

from __future__ import annotations


class TryFailed(Exception):
    """Another try may go well. The message is for the log and names no secret."""


class Unreachable(TryFailed):
    """No connection: the server has not seen the request."""


class Busy(TryFailed):
    """The server will take it later."""

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Misplaced(TryFailed):
    """The server refuses this deployment rather than the request: its key, or a model it does not serve."""


class Lost(TryFailed):
    """The server, or the way to it, was lost with the request on board; or what it says makes no sense."""
