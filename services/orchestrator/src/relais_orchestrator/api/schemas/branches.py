"""Names for the branches of a union; error paths omit them."""

from __future__ import annotations

from pydantic import Tag

_MARK = "|"


def branch(name: str) -> Tag:
    """Name a branch of a union, as in `Annotated[str, branch("text")]`."""
    return Tag(_MARK + name)


def is_branch(part: str | int) -> bool:
    """Return whether a part of an error's location is a branch name."""
    return isinstance(part, str) and part.startswith(_MARK)
