"""Tables such as `LLM_TABLE`: models that run already, behind servers that speak OpenAI's API."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeGuard, TypeVar
from urllib.parse import urlsplit, urlunsplit

import orjson
from msgspec import Meta, Struct
from msgspec.structs import replace

from relais_common.config.entries import read_entry
from relais_common.jobs.channels import model_tag
from relais_common.jobs.errors import SettingsError

MAX_LENGTH = 1 << 20
ALBERT_S_TABLE = '[("AgentPublic/fabrique-reference-2", "http://127.0.0.1:8081")]'
"""What the remote engine serves where nothing is said."""


class TableEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One model at one server.

    Attributes:
        url: up to and without `/v1`.
        api_key: what the server wants as a bearer token; None for the table's key, such as `LLM_TABLE_API_KEY`.
        max_concurrency: requests this server may have at once from one worker; None for `REMOTE_MAX_CONCURRENCY`.
    """

    model: str
    url: str
    api_key: Annotated[str, Meta(pattern=r"\A[\x21-\x7e]+\Z")] | None = None
    max_concurrency: Annotated[int, Meta(ge=1)] | None = None

    def __repr__(self) -> str:
        """Leaves out the key, and the URL, which may hold a password."""
        return f"TableEntry({self.model!r}, max_concurrency={self.max_concurrency!r})"


class EmbeddingEntry(TableEntry, frozen=True, forbid_unknown_fields=True):
    """One embedding model at one server, which is sent texts as they are to be read.

    Attributes:
        query_prompt, passage_prompt: what goes before texts of these kinds.
    """

    query_prompt: str = ""
    passage_prompt: str = ""


_Entry = TypeVar("_Entry", bound=TableEntry)
_TAKES = {
    "": '("model", "http://host:port"), or an object of model, url and optionally api_key, max_concurrency',
    "model": "the name of a model",
    "url": "the form http://host:port",
    "api_key": "printable characters without spaces",
    "max_concurrency": "a whole number of at least 1",
    "query_prompt": "a text",
    "passage_prompt": "a text",
}


def read_server_table(setting: str, text: str, kind: type[_Entry]) -> tuple[_Entry, ...]:
    """The entries of a table in Python's or JSON's notation, or of the file that the text names; none for an empty one.

    Raises:
        SettingsError: it is no such table.
    """
    return tuple(
        _entry(setting, item, number, kind) for number, item in enumerate(_items(setting, text), 1)
    )


def read_mapping(setting: str, text: str) -> dict[str, str]:
    """An object of words in Python's or JSON's notation, or in the file that the text names; none for an empty one.

    Raises:
        SettingsError: it is no such thing.
    """
    found = _literal(setting, text, "{") if text.strip() else {}
    if not isinstance(found, dict) or not all(
        isinstance(word, str) for pair in found.items() for word in pair
    ):
        raise SettingsError(f'{setting} takes {{"name": "name", ...}}, or a file that has it')
    return found


def read_numbers(setting: str, text: str, *, at_most: int) -> dict[str, int]:
    """An object of whole numbers from 1 on, written as that of `read_mapping`; none for an empty text.

    Raises:
        SettingsError: it is no such thing.
    """
    found = _literal(setting, text, "{") if text.strip() else {}
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and type(number) is int and 1 <= number <= at_most
        for name, number in found.items()
    ):
        raise SettingsError(
            f'{setting} takes {{"name": number, ...}}, each from 1 to {at_most}, or a file that has it'
        )
    return found


def _items(setting: str, text: str) -> list[Any]:
    if not text.strip():
        return []
    items = _literal(setting, text, "[(")
    # One pair needs no list around it, and Python makes none of `("a", "b")`.
    if _is_pair(items):
        items = [items]
    if not isinstance(items, (list, tuple)):
        raise SettingsError(
            f'{setting} takes [("model", "http://host:port"), ...], or a JSON file that has it'
        )
    return list(items)


def _literal(setting: str, text: str, opening: str) -> Any:
    """What the text, or the file it names, says. Never run as code."""
    text = text.strip()
    source = setting
    if text[0] not in opening:
        source = f"{setting}: the file {text!r}"
        try:
            text = Path(text).expanduser().read_text().strip()
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "it is no file of text"
            raise SettingsError(f"{source} cannot be read: {reason}") from None
    if len(text) > MAX_LENGTH:
        raise SettingsError(f"{source} is too long")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        # What it says is not shown: it may hold a key.
        raise SettingsError(f"{source} is neither Python's notation nor JSON") from None


def _is_pair(item: object) -> TypeGuard[Sequence[str]]:
    return (
        isinstance(item, (list, tuple))
        and len(item) == 2
        and all(isinstance(part, str) for part in item)
    )


def _entry(setting: str, item: object, number: int, kind: type[_Entry]) -> _Entry:
    where = f"{setting}, entry {number}"
    given = {"model": item[0], "url": item[1]} if _is_pair(item) else item
    entry = read_entry(given, kind, where, _TAKES)
    try:
        model_tag(entry.model)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None
    url = _base_url(entry.url, where)
    if entry.api_key is not None and url != shown_url(url):
        raise SettingsError(f"{where} has an api_key and a password in its url; one is enough")
    return replace(entry, url=url)


def _base_url(url: str, where: str) -> str:
    """The URL without `/v1` and without a slash at its end."""
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError:
        raise SettingsError(f"{where}: its url cannot be read") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise SettingsError(f"{where}: its url takes the form http://host:port")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def shown_url(url: str) -> str:
    """The URL as it may be logged: without user name and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
