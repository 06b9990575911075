"""The names that requests may use for models: those declared, and aliases of them."""

from __future__ import annotations

from collections.abc import Mapping

from relais_common.channels import model_tag
from relais_common.errors import ModelNotFound, SettingsError
from relais_orchestrator.auth import Caller


class Catalogue:
    """Every name, and the model behind it.

    Args:
        models: the declared ones.
        aliases: other names; each stands for a declared model, or for another alias.
        embedding_models: those of the declared ones that give vectors, and write no text.

    Raises:
        SettingsError: an alias leads to no declared model; names `MODEL_ALIASES`.
    """

    def __init__(
        self,
        models: tuple[str, ...],
        aliases: Mapping[str, str],
        embedding_models: tuple[str, ...] = (),
    ) -> None:
        self._embedding_models = frozenset(embedding_models)
        self._roots = {model: model for model in models}
        for alias in aliases:
            if alias in models:
                raise SettingsError(f"MODEL_ALIASES has {alias!r}, which is a model itself")
            try:
                model_tag(alias)
            except ValueError as error:
                raise SettingsError(f"MODEL_ALIASES has {alias!r}: {error}") from None
        for alias in aliases:
            self._roots[alias] = _root(alias, models, aliases)

    def names_of(self, caller: Caller) -> tuple[str, ...]:
        """What a caller may ask for; it is told of nothing else. A key that may use a model may use all its aliases."""
        allowed = caller.may.models
        return tuple(
            name
            for name, root in self._roots.items()
            if allowed is None or name in allowed or root in allowed
        )

    def root_of(self, name: str, caller: Caller) -> str:
        """The declared model behind a name. Raises ModelNotFound, also where the caller may not use it."""
        root = self._roots.get(name)
        allowed = caller.may.models
        if root is None or not (allowed is None or name in allowed or root in allowed):
            raise ModelNotFound(f"the model {name!r} does not exist", param="model")
        return root

    def embeds(self, root: str) -> bool:
        """Whether a declared model gives vectors, and writes no text."""
        return root in self._embedding_models


def _root(alias: str, models: tuple[str, ...], aliases: Mapping[str, str]) -> str:
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
