"""Reads typed values from the environment, which is passed as an argument.

Every reader takes the mapping and the setting's name. An invalid value is a `SettingsError` that names the
setting and says what it accepts. An empty value counts as unset, as in an env file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from relais_common.config.aliases import roots_of
from relais_common.config.server_table import (
    EmbeddingEntry,
    TableEntry,
    read_mapping,
    read_numbers,
    read_server_table,
)
from relais_common.jobs.channels import MOST_SHARDS, model_tag
from relais_common.jobs.errors import SettingsError
from relais_common.jobs.job import ModelOperation, Operation

Environ = Mapping[str, str]
KINDS: dict[ModelOperation, str] = {
    Operation.EMBEDDINGS: "EMBEDDING_MODELS",
    Operation.RERANK: "RERANK_MODELS",
    Operation.CLASSIFY: "CLASSIFY_MODELS",
}
"""The settings that declare models that do not write text."""
TABLES: dict[ModelOperation, str] = {
    Operation.EMBEDDINGS: "EMBEDDING_TABLE",
    Operation.RERANK: "RERANK_TABLE",
    Operation.CLASSIFY: "CLASSIFY_TABLE",
}
"""The settings that declare those that run behind servers."""
LARGEST = 1e9
"""Upper bound of all numbers: about thirty years in seconds. Redis and clocks do not accept infinity."""


def text(environ: Environ, name: str, default: str) -> str:
    """Read a text."""
    return environ.get(name, "").strip() or default


def optional_text(environ: Environ, name: str) -> str | None:
    """Read a text; None if unset."""
    return environ.get(name, "").strip() or None


def words(environ: Environ, name: str, default: str) -> tuple[str, ...]:
    """Read a comma-separated list, without empty items."""
    return tuple(word for word in map(str.strip, text(environ, name, default).split(",")) if word)


def choice(environ: Environ, name: str, default: str, allowed: tuple[str, ...]) -> str:
    """Read one of the allowed words."""
    value = text(environ, name, default)
    if value not in allowed:
        raise SettingsError(f"{name} is {value!r}; it takes one of: {', '.join(allowed)}")
    return value


def integer(
    environ: Environ, name: str, default: int, *, at_least: int = 0, at_most: int | None = None
) -> int:
    """Read a whole number within bounds."""
    value = optional_integer(environ, name, at_least=at_least, at_most=at_most)
    return default if value is None else value


def optional_integer(
    environ: Environ, name: str, *, at_least: int = 0, at_most: int | None = None
) -> int | None:
    """Read a whole number within bounds; None if unset."""
    raw = optional_text(environ, name)
    if raw is None:
        return None
    try:
        value = int(raw)
    except ValueError:
        raise SettingsError(f"{name} is {raw!r}; it takes a whole number") from None
    if value < at_least or (at_most is not None and value > at_most):
        upper = "" if at_most is None else f" and at most {at_most}"
        raise SettingsError(f"{name} is {value}; it takes at least {at_least}{upper}")
    return value


def number(
    environ: Environ,
    name: str,
    default: float,
    *,
    at_least: float = 0.0,
    at_most: float = LARGEST,
) -> float:
    """Read a number within bounds."""
    raw = optional_text(environ, name)
    if raw is None:
        return default
    try:
        value = float(raw)
    except ValueError:
        raise SettingsError(f"{name} is {raw!r}; it takes a number") from None
    if not at_least <= value <= at_most:
        raise SettingsError(f"{name} is {raw}; it takes a number from {at_least:g} to {at_most:g}")
    return value


def flag(environ: Environ, name: str, default: bool) -> bool:
    """Read a switch: true or false."""
    raw = optional_text(environ, name)
    if raw is None:
        return default
    if raw.lower() in ("1", "true", "yes", "on"):
        return True
    if raw.lower() in ("0", "false", "no", "off"):
        return False
    raise SettingsError(f"{name} is {raw!r}; it takes true or false")


def models(environ: Environ) -> tuple[str, ...]:
    """Read the names that clients use: those of `MODELS` and `LLM_TABLE`, and of all other kinds."""
    table = [entry.model for entry in llm_table(environ)]
    names = _model_names(environ, "MODELS", "" if table else "relais-demo")
    return tuple(dict.fromkeys((*names, *table, *model_kinds(environ))))


def model_kinds(environ: Environ) -> dict[str, ModelOperation]:
    """Read what each model of `KINDS` and `TABLES` is for. Raises SettingsError if one is of two kinds."""
    kinds: dict[str, ModelOperation] = {}
    for kind, setting in KINDS.items():
        _declare(kinds, kind, setting, _model_names(environ, setting))
    return _declare_tables(environ, kinds)


def table_kinds(environ: Environ) -> dict[str, ModelOperation]:
    """Read what each model of `TABLES` is for. Raises SettingsError if one is of two kinds."""
    return _declare_tables(environ, {})


def _declare_tables(
    environ: Environ, kinds: dict[str, ModelOperation]
) -> dict[str, ModelOperation]:
    for kind, setting in TABLES.items():
        _declare(kinds, kind, setting, [one.model for one in worker_table(environ, kind)])
    return kinds


def _declare(
    kinds: dict[str, ModelOperation], kind: ModelOperation, setting: str, names: Iterable[str]
) -> None:
    for name in names:
        if (other := kinds.setdefault(name, kind)) is not kind:
            raise SettingsError(f"{setting} has {name!r}, which is declared for {other} too")


def _model_names(environ: Environ, setting: str, default: str = "") -> tuple[str, ...]:
    names = words(environ, setting, default)
    for name in names:
        try:
            model_tag(name)
        except ValueError as error:
            raise SettingsError(f"{setting} has {name!r}: {error}") from None
    return tuple(dict.fromkeys(names))


def aliases(environ: Environ, models: tuple[str, ...]) -> dict[str, str]:
    """Read `MODEL_ALIASES`: other names, with the model behind each."""
    return roots_of(read_mapping("MODEL_ALIASES", text(environ, "MODEL_ALIASES", "")), models)


def llm_table(environ: Environ, default: str = "") -> tuple[TableEntry, ...]:
    """Read `LLM_TABLE`. If set but empty it means no models, whatever the default."""
    return read_server_table("LLM_TABLE", environ.get("LLM_TABLE", default), TableEntry)


def embedding_table(environ: Environ) -> tuple[EmbeddingEntry, ...]:
    """Read `EMBEDDING_TABLE`: embedding models behind servers."""
    return read_server_table("EMBEDDING_TABLE", environ.get("EMBEDDING_TABLE", ""), EmbeddingEntry)


def worker_table(environ: Environ, kind: ModelOperation) -> tuple[TableEntry, ...]:
    """Read the table of this kind: models behind servers."""
    if kind is Operation.EMBEDDINGS:
        return embedding_table(environ)
    return read_server_table(TABLES[kind], environ.get(TABLES[kind], ""), TableEntry)


def queue_shards(environ: Environ, models: tuple[str, ...]) -> dict[str, int]:
    """Read `QUEUE_SHARDS`: over how many queues each model's requests are spread; 1 for those that it does not name."""
    given = text(environ, "QUEUE_SHARDS", "")
    found = read_numbers("QUEUE_SHARDS", given, at_most=MOST_SHARDS)
    for name in found:
        if name not in models:
            raise SettingsError(f"QUEUE_SHARDS has {name!r}, which is no declared model")
    return dict.fromkeys(models, 1) | found


def max_waiting(environ: Environ) -> int:
    """Read `MAX_WAITING`: waiting requests of one model."""
    return integer(environ, "MAX_WAITING", 10_000, at_least=1)
