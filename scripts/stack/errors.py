"""What ends a command, said in one line."""

from __future__ import annotations


class StackError(Exception):
    """The command cannot go on. The message is one line that says what to do."""


class StopRequested(BaseException):
    """A signal asked for the end. Not an `Exception`: nothing on the way may mistake it for a failure."""
