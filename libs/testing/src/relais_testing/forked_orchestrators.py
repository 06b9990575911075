"""Imported in a process that orchestrators are forked from: they find the schemas of their document made."""

from __future__ import annotations

from relais_testing.documented import document

document()
