"""The records of a script's arguments have its own names, in its order."""

from __future__ import annotations

import re

import pytest

from relais_common.queue import scripts
from relais_common.queue.intake.redis_intake import EnqueueArguments
from relais_common.queue.script_values import JobArguments


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("enqueue", (*JobArguments._fields, *EnqueueArguments._fields)),
        ("replay", ("letter", "max_waiting", *JobArguments._fields)),
    ],
)
def test_a_script_unpacks_what_its_record_holds(script: str, names: tuple[str, ...]) -> None:
    [unpacked] = re.findall(
        r"^ *local ([\w,\s]+?) = unpack\(ARGV(?:, from, to)?\)$",
        scripts.source(script),
        re.MULTILINE,
    )
    assert tuple(re.split(r",\s*", unpacked)) == names
