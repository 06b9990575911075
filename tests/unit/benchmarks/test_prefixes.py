"""The simulation of workers with prefix caches."""

from __future__ import annotations

from benchmarks.prefixing.simulation import Asked, conversations, play, shared_prompts

RULES = ("rules", 1000)


def question(number: int) -> Asked:
    return Asked((RULES, (f"question {number}", 100)), 10)


def test_a_worker_finds_what_it_has_read_before() -> None:
    arrivals = [(float(number), question(number)) for number in range(10)]
    found = play(arrivals, workers=1, cache_tokens=2000)
    assert found.cached == 9 * 1000 / (10 * 1100)


def test_a_cache_forgets_what_was_used_longest_ago() -> None:
    other = Asked((("other rules", 1000), ("question", 100)), 10)
    arrivals = [(0.0, question(0)), (1.0, other), (2.0, question(1))]
    assert play(arrivals, workers=1, cache_tokens=1500).cached == 0
    assert play(arrivals, workers=1, cache_tokens=4000).cached > 0


def test_requests_wait_for_places() -> None:
    arrivals = [(0.0, question(number)) for number in range(4)]
    found = play(arrivals, workers=1, cache_tokens=2000, places=2)
    assert sorted(wait_s > 0 for wait_s in found.waits_s) == [False, False, True, True]


def test_a_conversation_s_turns_come_one_after_another() -> None:
    arrivals = list(conversations(5, 1.0, turns=3))
    assert len(play(arrivals, workers=2, cache_tokens=10_000).waits_s) == 15


def test_homes_find_more_and_stay_even() -> None:
    arrivals = list(shared_prompts(400, 20.0))
    blind, aware = (
        play(arrivals, workers=4, cache_tokens=6000, homes=one) for one in (False, True)
    )
    assert aware.cached > 2 * blind.cached
    assert aware.unevenness < 1.3
