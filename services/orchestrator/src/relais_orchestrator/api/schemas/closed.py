"""Configuration of response types. They are typed dictionaries: checked by mypy, documented, and free at run time."""

from __future__ import annotations

from pydantic import ConfigDict

CLOSED = ConfigDict(extra="forbid")
"""For `with_config`: undeclared fields are never sent."""
