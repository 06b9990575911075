"""All settings of the LLM worker, read once from a mapping."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from relais_common.config.server_table import ALBERT_S_TABLE
from relais_common.jobs.errors import SettingsError
from relais_common.remote.settings import RemoteSettings, read_remote_settings
from relais_common.runtime import environ
from relais_common.runtime.environ import Environ
from relais_common.worker.serving import ServiceSettings, read_service_settings

STRUCTURED_OUTPUTS_BACKENDS = ("guidance", "xgrammar")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputsSettings:
    """Settings of structured outputs.

    Attributes:
        backend: `guidance` or `xgrammar`.
        cpu_s: CPU seconds that the trial of one specification may take.
    """

    backend: str = "guidance"
    disable_any_whitespace: bool = True
    disable_additional_properties: bool = True
    cpu_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """Settings of chats, as `vllm serve` has them; None for none.

    Attributes:
        tool_call_parser, reasoning_parser: names in vLLM's registries.
        template: a file, or the template itself; None for the model's own.
    """

    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    template: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Settings of the engine: model and resources; None leaves the choice to vLLM.

    Attributes:
        engine_args: options of `vllm serve`, as a command line has them.
        stall_s: how long the engine may make no step while it has requests.
    """

    kind: str
    repo_id: str
    served_name: str
    dtype: str
    max_model_len: int | None
    max_num_seqs: int
    kv_cache_memory_bytes: int | None
    tensor_parallel_size: int
    gpu_memory_utilization: float
    enforce_eager: bool
    models_cache_dir: str | None
    structured_outputs: StructuredOutputsSettings
    chats: ChatSettings
    engine_args: tuple[str, ...]
    tokens_per_s: float
    stall_s: float


NOT_VLLM_S = (
    "VLLM_CHAT_TEMPLATE",
    "VLLM_DTYPE",
    "VLLM_ENFORCE_EAGER",
    "VLLM_ENGINE_ARGS",
    "VLLM_GPU_MEMORY_UTILIZATION",
    "VLLM_HF_REPO_ID",
    "VLLM_KV_CACHE_MEMORY_BYTES",
    "VLLM_MAX_MODEL_LEN",
    "VLLM_MAX_NUM_SEQS",
    "VLLM_REASONING_PARSER",
    "VLLM_STRUCTURED_OUTPUTS_CONFIG",
    "VLLM_TENSOR_PARALLEL_SIZE",
    "VLLM_TOOL_CALL_PARSER",
)
"""Settings named like vLLM's variables, which it would warn of: they become arguments of its engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings.

    Attributes:
        remote: set if the remote engine is chosen; `engine` is then unused.
    """

    service: ServiceSettings
    engine: EngineSettings
    remote: RemoteSettings | None
    max_output_tokens: int
    kv_cache_threshold: float


def served_model_name(env: Environ) -> str:
    """Return `SERVED_MODEL_NAME`, else the repository id, else the last part of a local path."""
    repo_id = environ.text(env, "VLLM_HF_REPO_ID", "models/relais-demo")
    default = Path(repo_id).name if Path(repo_id).is_dir() else repo_id
    return environ.text(env, "SERVED_MODEL_NAME", default)


def read_settings(env: Environ) -> Settings:
    """Read and validate all settings. Raises SettingsError, which names the setting."""
    kind = environ.choice(env, "ENGINE", "vllm", ("vllm", "deterministic", "remote"))
    remote = _remote_settings(env, kind)
    engine = EngineSettings(
        kind=kind,
        repo_id=environ.text(env, "VLLM_HF_REPO_ID", "models/relais-demo"),
        served_name=served_model_name(env),
        dtype=environ.choice(env, "VLLM_DTYPE", "auto", DTYPES),
        max_model_len=environ.optional_integer(env, "VLLM_MAX_MODEL_LEN", at_least=1),
        max_num_seqs=environ.integer(env, "VLLM_MAX_NUM_SEQS", 64, at_least=1),
        kv_cache_memory_bytes=environ.optional_integer(
            env, "VLLM_KV_CACHE_MEMORY_BYTES", at_least=1 << 20
        ),
        tensor_parallel_size=environ.integer(env, "VLLM_TENSOR_PARALLEL_SIZE", 1, at_least=1),
        gpu_memory_utilization=environ.number(
            env, "VLLM_GPU_MEMORY_UTILIZATION", 0.9, at_least=0.01, at_most=1.0
        ),
        enforce_eager=environ.flag(env, "VLLM_ENFORCE_EAGER", False),
        models_cache_dir=environ.optional_text(env, "MODELS_CACHE_DIR"),
        structured_outputs=_structured_outputs_settings(env),
        chats=ChatSettings(
            tool_call_parser=environ.optional_text(env, "VLLM_TOOL_CALL_PARSER"),
            reasoning_parser=environ.optional_text(env, "VLLM_REASONING_PARSER"),
            template=environ.optional_text(env, "VLLM_CHAT_TEMPLATE"),
        ),
        engine_args=_engine_args(env),
        tokens_per_s=environ.number(env, "DETERMINISTIC_TOKENS_PER_S", 0.0),
        stall_s=environ.number(env, "ENGINE_STALL_S", 120.0, at_least=1, at_most=86_400),
    )
    return Settings(
        service=replace(
            read_service_settings(env, health_port=8081),
            stream_interval_s=environ.number(env, "STREAM_INTERVAL_S", 0.02, at_most=10),
        ),
        engine=engine,
        remote=remote if kind == "remote" else None,
        max_output_tokens=environ.integer(env, "MAX_OUTPUT_TOKENS", 8192, at_least=1),
        kv_cache_threshold=environ.number(
            env, "KV_CACHE_THRESHOLD", 0.95, at_least=0.01, at_most=1.0
        ),
    )


def _engine_args(env: Environ) -> tuple[str, ...]:
    name = "VLLM_ENGINE_ARGS"
    try:
        return tuple(shlex.split(environ.text(env, name, "")))
    except ValueError as error:
        raise SettingsError(f"{name} cannot be split into words: {error}") from None


def _structured_outputs_settings(env: Environ) -> StructuredOutputsSettings:
    """Read vLLM's `--structured-outputs-config`, restricted to what can be tried before the engine sees it."""
    name = "VLLM_STRUCTURED_OUTPUTS_CONFIG"
    try:
        given = orjson.loads(environ.text(env, name, "{}"))
    except orjson.JSONDecodeError:
        raise SettingsError(f"{name} is not JSON") from None
    taken = {
        "backend": STRUCTURED_OUTPUTS_BACKENDS,
        "disable_any_whitespace": (True, False),
        "disable_additional_properties": (True, False),
    }
    if not isinstance(given, dict) or given.keys() - taken.keys():
        raise SettingsError(f"{name} takes a JSON object with {', '.join(taken)}")
    for field, value in given.items():
        if not any(type(value) is type(one) and value == one for one in taken[field]):
            raise SettingsError(
                f"{name}: {field} takes one of: {', '.join(map(str, taken[field])).lower()}"
            )
    return StructuredOutputsSettings(
        **given,
        cpu_s=environ.number(env, "STRUCTURED_OUTPUTS_CPU_S", 2.0, at_least=0.1, at_most=600),
    )


def _remote_settings(env: Environ, kind: str) -> RemoteSettings:
    table = environ.llm_table(env, ALBERT_S_TABLE if kind == "remote" else "")
    if kind == "remote" and not table:
        raise SettingsError("LLM_TABLE is empty; with ENGINE=remote it names models and servers")
    return read_remote_settings(env, table, key_setting="LLM_TABLE_API_KEY")
