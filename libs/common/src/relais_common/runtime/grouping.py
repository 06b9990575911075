"""Groups inputs, in their order, by size. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def groups(
    sizes: Iterable[tuple[int, int]], most: int, most_inputs: int | None = None
) -> Iterator[tuple[list[int], int]]:
    """Yield the indexes of each group's inputs, and its size; a larger input goes alone.

    Args:
        sizes: the index and the size of each input.
        most: bound on the size of a group.
        most_inputs: bound on their number.
    """
    group: list[int] = []
    size = 0
    for index, own in sizes:
        if group and (size + own > most or len(group) == most_inputs):
            yield group, size
            group, size = [], 0
        group.append(index)
        size += own
    if group:
        yield group, size
