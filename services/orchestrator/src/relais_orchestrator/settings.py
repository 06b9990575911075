"""All settings of the orchestrator, read once from a mapping."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from relais_common.config.server_table import read_mapping
from relais_common.jobs.errors import SettingsError
from relais_common.jobs.job import ModelOperation
from relais_common.queue.client.address import redis_url
from relais_common.queue.redis_store import AcceptWait, RedisSettings
from relais_common.runtime import environ, logs
from relais_common.runtime.connections import ConnectionBounds
from relais_common.runtime.environ import Environ
from relais_orchestrator.batches.settings import BatchSettings, read_batch_settings
from relais_orchestrator.files.settings import FileLimits, read_file_limits
from relais_orchestrator.http.behind_proxy import BehindProxy, TrustedProxies
from relais_orchestrator.http.cors import Cors
from relais_orchestrator.responses.settings import ResponseSettings, read_response_settings
from relais_orchestrator.tracing.settings import TraceSettings, read_trace_settings

_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+")
_ROOT_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
ENVS = ("dev", "staging", "prod")


MAX_INPUTS = 32_768
"""The highest allowed value of `MAX_EMBEDDING_INPUTS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on requests, and retention times.

    Attributes:
        body_timeout_s: how long a client may take to send a body.
        accept_embedding_token_ids: inputs may be token ids; wrong ones are not noticed.
        max_held_bytes_per_key: bytes of bodies being read and responses being sent, at this process.
        max_streams_per_key: open streams at this process.
        reserved_output_tokens: reserved from a key's minute for a request without `max_tokens`, until its end.
    """

    max_body_bytes: int
    body_timeout_s: float
    max_held_bytes_per_key: int
    max_embedding_inputs: int
    accept_embedding_token_ids: bool
    max_waiting: int
    max_inflight_per_key: int
    max_streams_per_key: int
    reserved_output_tokens: int
    max_stored_bytes: int
    default_deadline_s: float
    max_deadline_s: float
    log_ttl_s: float
    result_ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """Timings of streams.

    Attributes:
        keepalive_s: silence after which a comment is sent, and the log is read again.
        write_timeout_s: how long a client may take to read a write before it is disconnected; it can resume.
        watch_lease_s: how long a request with `on_disconnect: cancel` continues while nobody reads it.
        events_url_ttl_s: how long a signed `events_url` is valid.
    """

    keepalive_s: float
    write_timeout_s: float
    watch_lease_s: float
    events_url_ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings.

    Attributes:
        ignore_unknown: unknown fields of bodies are ignored, not refused.
        queue_shards: over how many queues each model's requests are spread.
        traces: None if no traces are kept.
    """

    env: str
    redis: RedisSettings
    accept_wait: AcceptWait
    host: str
    port: int
    proxy: BehindProxy
    connections: ConnectionBounds
    cors: Cors
    image_url_hosts: tuple[str, ...]
    ignore_unknown: bool
    models: tuple[str, ...]
    model_kinds: dict[str, ModelOperation]
    model_aliases: dict[str, str]
    queue_shards: dict[str, int]
    api_keys: Path | None
    limits: Limits
    streaming: Streaming
    traces: TraceSettings | None
    files: FileLimits
    batches: BatchSettings
    responses: ResponseSettings
    drain_s: float
    lease_s: float
    reap_every_s: float
    max_failures: int
    log_level: str
    log_format: str


def read_settings(env: Environ) -> Settings:
    """Read and validate all settings. Raises SettingsError, which names the setting."""
    name = environ.choice(env, "ENV", "dev", ENVS)
    keys_path = environ.optional_text(env, "API_KEYS")
    if name != "dev" and keys_path is None:
        raise SettingsError(f"API_KEYS is not set; with ENV={name} it names the file of keys")
    max_body_bytes = environ.integer(env, "MAX_BODY_BYTES", 4 << 20, at_least=1024)
    log_ttl_s = environ.number(env, "LOG_TTL_S", 600, at_least=1)
    write_timeout_s = environ.number(env, "WRITE_TIMEOUT_S", 30, at_least=0.1, at_most=3600)
    trusted = _trusted_proxies(env)
    models = environ.models(env)
    shards = environ.queue_shards(env, models)
    return Settings(
        env=name,
        redis=RedisSettings(url=redis_url(env)),
        accept_wait=AcceptWait(
            fsync=environ.flag(env, "ACCEPT_WAIT_FSYNC", False),
            replicas=environ.integer(env, "ACCEPT_WAIT_REPLICAS", 0),
            timeout_s=environ.number(env, "ACCEPT_WAIT_TIMEOUT_S", 3.0, at_least=0.001, at_most=60),
        ),
        host=environ.text(env, "API_HOST", "127.0.0.1"),
        port=environ.integer(env, "API_PORT", 8080, at_most=65535),
        proxy=BehindProxy(_root_path(env), trusted),
        connections=ConnectionBounds(
            most=environ.integer(env, "MAX_CONNECTIONS", 16_384, at_least=1),
            most_per_address=environ.integer(env, "MAX_CONNECTIONS_PER_ADDRESS", 1000, at_least=1),
            proxies=trusted,
            idle_timeout_s=environ.number(env, "IDLE_TIMEOUT_S", 75, at_least=0.1, at_most=3600),
            write_timeout_s=write_timeout_s,
            linger_bytes=max_body_bytes,
        ),
        cors=Cors(_origins(env), localhost=name == "dev"),
        image_url_hosts=_image_url_hosts(env),
        ignore_unknown=_ignore_unknown(env, name),
        models=models,
        model_kinds=environ.model_kinds(env),
        model_aliases=read_mapping("MODEL_ALIASES", environ.text(env, "MODEL_ALIASES", "")),
        queue_shards=shards,
        api_keys=None if keys_path is None else Path(keys_path),
        limits=Limits(
            max_body_bytes=max_body_bytes,
            body_timeout_s=environ.number(env, "BODY_TIMEOUT_S", 60, at_least=0.1, at_most=3600),
            max_held_bytes_per_key=environ.integer(
                env,
                "MAX_HELD_BYTES_PER_KEY",
                max(64 << 20, 4 * max_body_bytes),
                at_least=max_body_bytes,
            ),
            max_embedding_inputs=environ.integer(
                env, "MAX_EMBEDDING_INPUTS", 2048, at_least=1, at_most=MAX_INPUTS
            ),
            accept_embedding_token_ids=environ.choice(
                env, "EMBEDDING_TOKEN_IDS", "refuse", ("refuse", "accept")
            )
            == "accept",
            max_waiting=environ.max_waiting(env),
            max_inflight_per_key=environ.integer(env, "MAX_INFLIGHT_PER_KEY", 1000, at_least=1),
            max_streams_per_key=environ.integer(env, "MAX_STREAMS_PER_KEY", 1000, at_least=1),
            reserved_output_tokens=environ.integer(env, "RESERVED_OUTPUT_TOKENS", 1024),
            max_stored_bytes=_max_stored_bytes(
                env, max_body_bytes * max(shards.values(), default=1)
            ),
            default_deadline_s=environ.number(env, "DEFAULT_DEADLINE_S", 3600, at_least=1),
            max_deadline_s=environ.number(env, "MAX_DEADLINE_S", 86_400, at_least=1),
            log_ttl_s=log_ttl_s,
            result_ttl_s=environ.number(
                env, "RESULT_TTL_S", max(3600, log_ttl_s), at_least=log_ttl_s
            ),
        ),
        streaming=Streaming(
            keepalive_s=environ.number(env, "KEEPALIVE_S", 10, at_least=0.1, at_most=600),
            write_timeout_s=write_timeout_s,
            watch_lease_s=environ.number(env, "WATCH_LEASE_S", 30, at_least=0.5, at_most=3600),
            events_url_ttl_s=environ.number(env, "EVENTS_URL_TTL_S", 3600, at_least=1),
        ),
        traces=read_trace_settings(env),
        files=read_file_limits(env),
        batches=read_batch_settings(env),
        responses=read_response_settings(env),
        drain_s=environ.number(env, "DRAIN_S", 25.0, at_most=3600),
        lease_s=environ.number(env, "LEASE_S", 6.0, at_least=0.5, at_most=3600),
        reap_every_s=environ.number(env, "REAP_EVERY_S", 1.0, at_least=0.05, at_most=600),
        max_failures=environ.integer(env, "MAX_FAILURES", 3, at_least=1),
        log_level=environ.choice(env, "LOG_LEVEL", "info", logs.LEVELS),
        log_format=environ.choice(env, "LOG_FORMAT", "json", logs.FORMATS),
    )


def _root_path(env: Environ) -> str:
    path = environ.text(env, "API_ROOT_PATH", "").rstrip("/")
    if path and not _ROOT_PATH.fullmatch(path):
        raise SettingsError(f"API_ROOT_PATH is {path!r}; it takes a path like /relais")
    if path.split("/")[1:2] in (["v1"], ["docs"]):
        # A path would be ambiguous between the two.
        raise SettingsError(f"API_ROOT_PATH is {path!r}; the API's own paths begin so")
    return path


def _trusted_proxies(env: Environ) -> TrustedProxies:
    entries = environ.words(env, "FORWARDED_ALLOW_IPS", "127.0.0.1")
    try:
        return TrustedProxies.parse(entries)
    except ValueError as error:
        raise SettingsError(f"FORWARDED_ALLOW_IPS: {error}") from None


def _origins(env: Environ) -> tuple[str, ...]:
    origins = environ.words(env, "CORS_ALLOW_ORIGINS", "")
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise SettingsError(
                f"CORS_ALLOW_ORIGINS has {origin!r}; it takes origins like https://example.org, or *"
            )
    return origins


def _image_url_hosts(env: Environ) -> tuple[str, ...]:
    hosts = environ.words(env, "IMAGE_URL_HOSTS", "")
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise SettingsError(
                f"IMAGE_URL_HOSTS has {host!r}; it takes hosts like images.example.org, or host:port"
            )
    return hosts


def _ignore_unknown(env: Environ, name: str) -> bool:
    # Who develops should see a misspelt field; in production clients come that send more than is known.
    default = "refuse" if name == "dev" else "ignore"
    return environ.choice(env, "UNKNOWN_FIELDS", default, ("refuse", "ignore")) == "ignore"


def _max_stored_bytes(env: Environ, bodies_bytes: int) -> int:
    """Read the bound of one model; each of its queues must have room for any request that is accepted."""
    return environ.integer(env, "MAX_STORED_BYTES", 4 << 30, at_least=4 * bodies_bytes)
