"""One entry of a settings file, read into a `msgspec.Struct`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from relais_common.jobs.errors import SettingsError

Entry = TypeVar("Entry", bound=msgspec.Struct)
_FIELD = re.compile(r" - at `\$\.(\w+)")


def read_entry(given: object, kind: type[Entry], where: str, takes: Mapping[str, str]) -> Entry:
    """Read an object.

    Args:
        where: names the entry.
        takes: for each field, and for the entry itself under "", what it takes, in words for the error. msgspec's own
            words may repeat a value, which may be a key.

    Raises:
        SettingsError: names the entry and the field at fault.
    """
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        found = _FIELD.search(str(error))
    if found and found[1] in takes:
        raise SettingsError(f"{where}: {found[1]} takes {takes[found[1]]}")
    raise SettingsError(f"{where} takes {takes['']}")
