"""The process that parses large bodies, one after another, from standard input until it ends."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import BinaryIO

from relais_common.runtime import heap
from relais_orchestrator.submission.reading import Reading
from relais_orchestrator.submission.reading.messages import (
    NICENESS,
    REQUEST,
    answer_of,
    encode_answer,
)


def serve(bodies: BinaryIO, answers: BinaryIO) -> None:
    """Answer each body in order."""
    while len(head := bodies.read(REQUEST.size)) == REQUEST.size:
        route, ignore_unknown, length = REQUEST.unpack(head)
        answer = answer_of(Reading(route), bodies.read(length), ignore_unknown=ignore_unknown)
        answers.write(encode_answer(answer))
        answers.flush()


if __name__ == "__main__":
    # Event loops have precedence: their clients wait for small requests.
    os.nice(NICENESS)
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            # It interrupts nobody when a body comes.
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    gc.freeze()
    heap.give_back()
    serve(sys.stdin.buffer, sys.stdout.buffer)
