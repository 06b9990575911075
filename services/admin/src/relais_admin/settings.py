"""All settings of `relais admin`, read once from a mapping. The services use the same ones."""

from __future__ import annotations

from dataclasses import dataclass

from relais_common.queue.client.address import redis_url
from relais_common.queue.redis_store import RedisSettings
from relais_common.runtime import environ
from relais_common.runtime.environ import Environ


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings.

    Attributes:
        aliases: other names of `models`, with the model behind each.
    """

    redis: RedisSettings
    models: tuple[str, ...]
    aliases: dict[str, str]
    max_waiting: int


def read_settings(env: Environ) -> Settings:
    """Read and validate all settings. Raises SettingsError, which names the setting."""
    models = environ.models(env)
    return Settings(
        redis=RedisSettings(url=redis_url(env)),
        models=models,
        aliases=environ.aliases(env, models),
        max_waiting=environ.max_waiting(env),
    )
