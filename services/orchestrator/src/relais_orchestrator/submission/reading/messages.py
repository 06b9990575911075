"""Messages between an orchestrator and the process that parses its large bodies."""

from __future__ import annotations

import pickle
import struct
import traceback

from relais_common.jobs.errors import InternalError, RelaisError
from relais_orchestrator.submission.drafts import Asked
from relais_orchestrator.submission.reading import Reading, read

REQUEST = struct.Struct("<B?Q")
"""Request header: route, whether to ignore unknown fields, and length of the body that follows."""

ANSWER = struct.Struct("<Q")
"""Response header: length of the pickle that follows."""

NICENESS = 10


def answer_of(route: Reading, body: bytes, *, ignore_unknown: bool = False) -> Asked | RelaisError:
    """Return what a body asks for, or why it is refused; never raises."""
    try:
        return read(route, body, ignore_unknown=ignore_unknown)
    except RelaisError as error:
        return error.with_traceback(None)
    except Exception:  # noqa: BLE001 — the client is told, the log has it, the next body is read
        traceback.print_exc()
        return InternalError("something went wrong on our side")


def encode_answer(answer: Asked | RelaisError) -> bytes:
    """Encode an answer. Only the parent of this process reads it."""
    data = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    return ANSWER.pack(len(data)) + data
