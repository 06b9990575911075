"""Quantiles out of logarithmic bins: their error is bounded, and merging adds none."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relais_common.insights.sketch import RELATIVE_ERROR, SHORTEST_S, Sketch

DURATIONS = st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=200)
ROUNDING = 1e-9


def sketch_of(durations: Iterable[float]) -> Sketch:
    sketch = Sketch()
    for one in durations:
        sketch.add(one)
    return sketch


def exact(durations: list[float], share: float) -> float:
    """By nearest rank."""
    return sorted(durations)[max(1, math.ceil(share * len(durations))) - 1]


@given(durations=DURATIONS, share=st.floats(min_value=0, max_value=1))
def test_a_quantile_is_within_the_stated_error_of_the_exact_one(
    durations: list[float], share: float
) -> None:
    found = sketch_of(durations).quantile(share)

    assert found is not None
    wanted = exact(durations, share)
    assert abs(found - wanted) <= max(SHORTEST_S, wanted * (RELATIVE_ERROR + ROUNDING))


@given(durations=DURATIONS, cut=st.integers(min_value=0, max_value=200))
def test_parts_merge_into_the_sketch_of_the_whole_in_any_order(
    durations: list[float], cut: int
) -> None:
    one, other = sketch_of(durations[cut:]), sketch_of(durations[:cut])
    one.merge(other)

    assert one.to_document() == sketch_of(reversed(durations)).to_document()


@given(durations=DURATIONS)
def test_a_document_holds_all_of_it(durations: list[float]) -> None:
    document = sketch_of(durations).to_document()

    assert Sketch.from_document(document).to_document() == document
    assert all(abs(index) < 1 << 31 for index in document["bins"])


def test_nothing_has_no_quantile_and_no_mean() -> None:
    assert Sketch().quantile(0.5) is None
    assert Sketch().mean_s is None


def test_the_highest_quantile_is_not_over_the_longest_duration() -> None:
    sketch = sketch_of([1.0, 2.0, 7.3])

    assert sketch.quantile(1.0) == pytest.approx(7.3, rel=RELATIVE_ERROR)
    assert sketch.quantile(1.0) <= sketch.max_s == 7.3  # type: ignore[operator]
    assert sketch.mean_s == pytest.approx(10.3 / 3)
