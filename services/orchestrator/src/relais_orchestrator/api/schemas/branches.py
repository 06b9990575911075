"""Names for the branches of a union; error paths omit them."""

from __future__ import annotations

from pydantic import Tag

MARK = "|"
"""Begins the names of branches."""

TAGGED = "tagged"
"""Names the branch of a list whose items are told apart by a field. Pydantic puts an item's tag behind its index."""

CHOSEN = "chosen"
"""Names the branch of an object that a field tells apart from others. Pydantic puts its tag behind the branch."""


def branch(name: str) -> Tag:
    """Name a branch of a union, as in `Annotated[str, branch("text")]`."""
    return Tag(MARK + name)


def is_tag(before: tuple[str | int, ...]) -> bool:
    """Return whether the part of an error's location that follows these is a tag."""
    return before[-2:-1] == (MARK + TAGGED,) or before[-1:] == (MARK + CHOSEN,)


def is_branch(part: str | int) -> bool:
    """Return whether a part of an error's location is a branch name."""
    return isinstance(part, str) and part.startswith(MARK)
