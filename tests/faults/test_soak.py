"""A short soak: every kind of fault on a small fleet, and not a request, an event or a letter lost.

The long one, with its bars, is `make bench ARGS=soak`.
"""

from __future__ import annotations

import pytest

from benchmarks.soak import soak

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def test_nothing_is_lost_under_random_faults() -> None:
    soaked = await soak(minutes=0, requests=120, every_s=1.5, seed=7, clients=24, let_expire=False)
    assert soaked.faults.total() > 0
    assert soaked.problems() == []
    assert (soaked.kept, len(soaked.outcomes)) == (120, 120)
    assert soaked.continued_midway > 0
    assert soaked.remains == []
    assert soaked.traces == []
    assert soaked.surprises == []
    assert not soaked.errors
