"""Answers are typed dictionaries: mypy holds the code to them, the document is made of them, they cost nothing."""

from __future__ import annotations

from pydantic import ConfigDict

CLOSED = ConfigDict(extra="forbid")
"""For `with_config`: nothing is sent that is not declared."""
