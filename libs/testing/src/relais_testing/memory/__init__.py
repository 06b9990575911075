"""The ports in memory: the same promises in one process, for tests and demonstrations."""

from relais_testing.memory.store import MemoryStore

__all__ = ["MemoryStore"]
