"""An environment that records its look-ups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class RecordingEnviron(Mapping[str, str]):
    """A mapping whose `asked` has every name that was looked up."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
