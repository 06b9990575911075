"""All settings of `relais kpi`, read once from a mapping."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from relais_common.insights.mongo import MongoSettings, read_mongo_settings
from relais_common.jobs.errors import SettingsError
from relais_common.runtime import environ
from relais_common.runtime.environ import Environ

ANSWER_TIMEOUT_S = 600.0
"""Grouping a million traces by hour takes a small server seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings.

    Attributes:
        kept: how long rollups are kept.
    """

    mongo: MongoSettings
    kept: timedelta


def read_settings(env: Environ) -> Settings:
    """Read and validate all settings. Raises SettingsError, which names the setting."""
    mongo = read_mongo_settings(env)
    if mongo is None:
        raise SettingsError("MONGODB_URL is not set; it says where the traces are")
    days = environ.integer(env, "KPI_RETENTION_DAYS", 730, at_least=1, at_most=36_500)
    return Settings(
        mongo=replace(mongo, answer_timeout_s=max(ANSWER_TIMEOUT_S, mongo.timeout_s)),
        kept=timedelta(days=days),
    )
