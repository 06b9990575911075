"""The services' own readers of settings, as far as they are installed, and all that one of them finds wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points

from relais_common.jobs.errors import SettingsError
from relais_common.runtime.environ import Environ

GROUP = "relais.settings"
"""Entry points by which a service brings its reader, so that this one need not import a service."""

Reader = Callable[[Environ], object]

_WORD = re.compile(r"[A-Z][A-Z0-9_]+")


def installed_readers() -> dict[str, Reader]:
    """By the service's name."""
    return {point.name: point.load() for point in sorted(entry_points(group=GROUP))}


class Recording(Mapping[str, str]):
    """An environment that notes what was asked of it, and forgets what it is told to."""

    def __init__(self, values: Environ) -> None:
        self._values = dict(values)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def forget(self, name: str) -> None:
        del self._values[name]


def examine(read: Reader, env: Environ) -> tuple[list[str], set[str]]:
    """Every error that the reader has to tell, not the first alone; and the names of all that it reads.

    A reader stops at what is wrong. What it named is taken away, so that its default stands in, and it is asked again.
    """
    recording = Recording(env)
    found: list[str] = []
    while True:
        try:
            read(recording)
        except SettingsError as error:
            found.append(str(error))
            named = {word for word in _WORD.findall(str(error)) if word in set(recording)}
            if not named:
                return found, recording.asked
            for word in named:
                recording.forget(word)
        else:
            return found, recording.asked
