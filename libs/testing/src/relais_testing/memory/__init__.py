"""The ports in memory, with the same promises, for tests and demonstrations."""

from relais_testing.memory.store import MemoryStore

__all__ = ["MemoryStore"]
