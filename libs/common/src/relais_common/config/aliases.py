"""Resolves `MODEL_ALIASES`, other names of models."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from relais_common.jobs.channels import model_tag
from relais_common.jobs.errors import SettingsError


def roots_of(aliases: Mapping[str, str], models: Collection[str]) -> dict[str, str]:
    """Return the declared model behind each alias, which may refer to another alias.

    Raises:
        SettingsError: an alias is also a model, is not a valid name, or does not resolve to a declared model.
    """
    for alias in aliases:
        if alias in models:
            raise SettingsError(f"MODEL_ALIASES has {alias!r}, which is a model itself")
        try:
            model_tag(alias)
        except ValueError as error:
            raise SettingsError(f"MODEL_ALIASES has {alias!r}: {error}") from None
    return {alias: _root(alias, models, aliases) for alias in aliases}


def _root(alias: str, models: Collection[str], aliases: Mapping[str, str]) -> str:
    seen = [alias]
    while seen[-1] not in models:
        target = aliases.get(seen[-1])
        if target is None:
            raise SettingsError(
                f"MODEL_ALIASES: {alias!r} leads to {seen[-1]!r}, which is no model of MODELS or LLM_TABLE"
            )
        if target in seen:
            raise SettingsError(f"MODEL_ALIASES goes in a circle: {' -> '.join([*seen, target])}")
        seen.append(target)
    return seen[-1]
