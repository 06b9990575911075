"""Short goes with short, small requests are not behind large ones, and nobody starves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relais_embedding_worker.batcher import SLACK_TOKENS, Batcher


def drain(batcher: Batcher[str]) -> list[list[tuple[str, int]]]:
    batches = []
    while batch := batcher.next():
        batches.append(batch)
    return batches


REQUESTS = st.dictionaries(
    st.text(max_size=3), st.lists(st.integers(1, 300), min_size=1, max_size=40), max_size=8
)


@given(requests=REQUESTS, budget=st.integers(1, 2000))
def test_each_input_is_in_one_batch_and_no_batch_is_over_the_budget(
    requests: dict[str, list[int]], budget: int
) -> None:
    batcher: Batcher[str] = Batcher(budget)
    for owner, lengths in requests.items():
        batcher.add(owner[:1], owner, lengths)
    batches = drain(batcher)
    everything = [one for batch in batches for one in batch]
    assert sorted(everything) == sorted(
        (owner, index) for owner, lengths in requests.items() for index in range(len(lengths))
    )
    for batch in batches:
        lengths = [requests[owner][index] for owner, index in batch]
        assert len(batch) == 1 or len(batch) * max(lengths) <= budget
        assert 2 * min(lengths) + SLACK_TOKENS >= max(lengths), "short goes with short"
    assert batcher.tokens == 0


@given(requests=REQUESTS, gone=st.sets(st.text(max_size=3)), first=st.integers(0, 3))
def test_inputs_of_a_request_that_was_removed_are_in_no_later_batch(
    requests: dict[str, list[int]], gone: set[str], first: int
) -> None:
    batcher: Batcher[str] = Batcher(500)
    for owner, lengths in requests.items():
        batcher.add(owner[:1], owner, lengths)
    for _ in range(first):
        batcher.next()
    for owner in gone:
        batcher.remove(owner)
    assert not gone & {owner for batch in drain(batcher) for owner, _ in batch}
    assert batcher.tokens == 0


def test_small_request_goes_before_the_rest_of_a_large_one() -> None:
    batcher: Batcher[str] = Batcher(256)
    batcher.add("key", "large", [64] * 2048)
    batcher.next()
    batcher.add("key", "small", [9])
    assert ("small", 0) in batcher.next()


def test_large_request_gets_its_turn_while_small_ones_keep_coming() -> None:
    batcher: Batcher[str] = Batcher(64)
    batcher.add("key", "large", [64] * 20)
    turns = 0
    for number in range(100):
        batcher.add("key", f"small-{number}", [4] * 4)
        turns += any(owner == "large" for owner, _ in batcher.next())
    assert turns >= 15


def test_inputs_of_several_requests_share_a_batch() -> None:
    batcher: Batcher[str] = Batcher(100)
    for owner in "abcde":
        batcher.add("key", owner, [10, 90])
    assert sorted(owner for batch in drain(batcher)[-1:] for owner, _ in batch)
    batcher.add("key", "a", [10])
    batcher.add("key", "b", [11])
    assert sorted(batcher.next()) == [("a", 0), ("b", 0)]


def test_input_over_the_budget_goes_alone() -> None:
    batcher: Batcher[str] = Batcher(10)
    batcher.add("key", "a", [50])
    batcher.add("key", "b", [50])
    assert [len(batch) for batch in drain(batcher)] == [1, 1]


def test_nothing_waits_in_a_new_one() -> None:
    assert Batcher[str](10).next() == []


def test_keys_take_turns_however_many_requests_each_has() -> None:
    batcher: Batcher[str] = Batcher(64)
    for number in range(100):
        batcher.add("attacker", f"large-{number}", [64] * 20)
    for _ in range(10):
        batcher.next()
    for number in range(5):
        batcher.add("victim", f"small-{number}", [9])
    served = [owner for _ in range(4) for owner, _ in batcher.next()]
    assert sum(owner.startswith("small") for owner in served) == 5


def test_requests_of_one_key_take_turns() -> None:
    batcher: Batcher[str] = Batcher(64)
    batcher.add("key", "one", [64] * 50)
    batcher.add("key", "two", [64] * 50)
    batcher.add("other", "three", [64] * 50)
    order = [owner for _ in range(40) for owner, _ in batcher.next()]
    assert [order.count(one) for one in ("one", "two", "three")] == [10, 10, 20]
