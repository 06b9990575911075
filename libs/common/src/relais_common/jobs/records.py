"""What an API keeps with a request, so that any orchestrator can show it later."""

from __future__ import annotations

from dataclasses import dataclass

from relais_common.jobs.job import Status


@dataclass(frozen=True, slots=True)
class ApiRecord:
    """What an API keeps with a request, for as long as its result is kept. Only the API reads the bytes.

    Attributes:
        head: what responses repeat.
        input: what was asked, which is read less often.
        stored: goes to the database, with the answer, when the request ends.
    """

    head: bytes
    input: bytes
    stored: bool = False

    @property
    def size_bytes(self) -> int:
        return len(self.head) + len(self.input)


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An ended request whose record is stored.

    Attributes:
        text: what was published of its text.
        outcome: its terminal event, encoded.
    """

    channel_id: str
    key_id: str
    status: Status
    record: ApiRecord
    text: str
    outcome: bytes
