"""Runs the settings readers of all installed services, and collects the problems that they find."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points

from relais_common.jobs.errors import SettingsError
from relais_common.runtime.environ import Environ

GROUP = "relais.settings"
"""Entry-point group in which services register their readers, so that this package imports no service."""

Reader = Callable[[Environ], object]

_WORD = re.compile(r"[A-Z][A-Z0-9_]+")


def installed_readers() -> dict[str, Reader]:
    """Return the installed readers by service name."""
    return {point.name: point.load() for point in sorted(entry_points(group=GROUP))}


class Recording(Mapping[str, str]):
    """An environment that records what is read, and can forget names."""

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
    """Return all errors of a reader, not only the first, and the names of all settings that it reads.

    A reader stops at the first invalid setting, which is then removed, so that its default applies when it runs again.
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
