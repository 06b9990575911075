"""The relay benchmark, in small: all three servers give every client each token in a frame of its own."""

from __future__ import annotations

import pytest

from benchmarks.relay import Load, measure

# They come with vLLM's requirements.

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("tokens_per_s", [0, 200])
async def test_every_frame_is_one_token_of_the_right_answer(tokens_per_s: float) -> None:
    # The clients check; one that gets anything else fails the run.
    rows = await measure(Load(3, 40, 2, tokens_per_s, "always"), rounds=1)
    assert len(rows) == 3
    for row in rows.values():
        assert set(row.cpu_us) >= {"server", "client"}
        assert row.frames_per_s > 0
        assert row.first_p50_ms <= row.first_p99_ms
