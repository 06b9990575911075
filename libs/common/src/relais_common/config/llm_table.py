"""`LLM_TABLE`: models that run already, behind servers that speak OpenAI's API."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson

from relais_common.jobs.channels import model_tag
from relais_common.jobs.errors import SettingsError

_FIELDS = frozenset(("model", "url", "api_key", "max_concurrency"))
_KEY = re.compile(r"[\x21-\x7e]+")
MAX_LENGTH = 1 << 20
ALBERT_S_TABLE = '[("AgentPublic/fabrique-reference-2", "http://127.0.0.1:8081")]'
"""What the remote engine serves where nothing is said."""


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One model at one server.

    Attributes:
        url: up to and without `/v1`.
        api_key: what the server wants as a bearer token; None where `LLM_TABLE_API_KEY` or none is right.
        max_concurrency: requests this server may have at once from one worker; None for `REMOTE_MAX_CONCURRENCY`.
    """

    model: str
    url: str = field(repr=False)  # it may hold a password
    api_key: str | None = field(default=None, repr=False)
    max_concurrency: int | None = None


def read_llm_table(text: str) -> tuple[TableEntry, ...]:
    """The entries of a table in Python's or JSON's notation, or of the file that the text names; none for an empty one.

    Raises:
        SettingsError: it is no such table.
    """
    return tuple(_entry(item, number) for number, item in enumerate(_items(text), 1))


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


def _items(text: str) -> list[Any]:
    if not text.strip():
        return []
    items = _literal("LLM_TABLE", text, "[(")
    # One pair needs no list around it, and Python makes none of `("a", "b")`.
    if _is_pair(items):
        items = [items]
    if not isinstance(items, (list, tuple)):
        raise SettingsError(
            'LLM_TABLE takes [("model", "http://host:port"), ...], or a JSON file that has it'
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


def _is_pair(item: object) -> bool:
    return (
        isinstance(item, (list, tuple))
        and len(item) == 2
        and all(isinstance(part, str) for part in item)
    )


def _entry(item: object, number: int) -> TableEntry:
    where = f"LLM_TABLE, entry {number}"
    if _is_pair(item):
        assert isinstance(item, (list, tuple))
        given: Mapping[Any, Any] = {"model": item[0], "url": item[1]}
    elif isinstance(item, dict):
        given = item
    else:
        raise SettingsError(f'{where} is no ("model", "http://host:port")')
    unknown = [str(name) for name in given if name not in _FIELDS]
    if unknown:
        raise SettingsError(
            f"{where} has {unknown[0]!r}; it takes model, url, api_key, max_concurrency"
        )
    model, url = given.get("model"), given.get("url")
    if not isinstance(model, str) or not isinstance(url, str):
        raise SettingsError(f"{where} needs a model and a url")
    try:
        model_tag(model)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None
    key, most = given.get("api_key"), given.get("max_concurrency")
    if key is not None and not (isinstance(key, str) and _KEY.fullmatch(key)):
        raise SettingsError(f"{where}: api_key takes printable characters without spaces")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise SettingsError(f"{where}: max_concurrency takes a whole number of at least 1")
    base_url = _base_url(url, where)
    if key is not None and base_url != shown_url(base_url):
        raise SettingsError(f"{where} has an api_key and a password in its url; one is enough")
    return TableEntry(model, base_url, key, most)


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
