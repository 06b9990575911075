"""The ports over Redis (or Valkey). The only package that imports the Redis client."""

from relais_common.redis_store.accept_wait import AcceptWait
from relais_common.redis_store.store import RedisSettings, RedisStore, open_store

__all__ = ["AcceptWait", "RedisSettings", "RedisStore", "open_store"]
