"""Names for the branches of a union, which are left out of the path that a client is told."""

from __future__ import annotations

from pydantic import Tag

_MARK = "|"


def branch(name: str) -> Tag:
    """In an annotation of one type of a union: `Annotated[str, branch("text")]`."""
    return Tag(_MARK + name)


def is_branch(part: str | int) -> bool:
    """Whether a part of an error's location is such a name."""
    return isinstance(part, str) and part.startswith(_MARK)
