"""Whose keys there are."""

from __future__ import annotations

VICTIM, OPERATOR, SHUT_OUT = "victim", "operator", "shut-out"
ATTACKERS = ("mallory-1", "mallory-2", "mallory-3")
RIGHTS: dict[str, dict[str, object]] = {
    VICTIM: {},
    OPERATOR: {"admin": True},
    SHUT_OUT: {"models": []},
    **{name: {} for name in ATTACKERS},
}
VECTORS = "vectors"
"""The model that gives them."""
HOSTILE_MODEL = "far-away"
"""The one that a hostile server has."""
