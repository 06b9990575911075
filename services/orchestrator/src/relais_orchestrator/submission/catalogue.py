"""The names that requests may use for models: those declared, and aliases of them."""

from __future__ import annotations

from collections.abc import Mapping

from relais_common.config.aliases import roots_of
from relais_common.jobs.errors import ModelNotFound
from relais_orchestrator.access.auth import Caller


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
        self._roots = {model: model for model in models} | roots_of(aliases, models)

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

    def behind(self, name: str) -> str | None:
        """The same for operators, who see every model; None where there is none."""
        return self._roots.get(name)

    def embeds(self, root: str) -> bool:
        """Whether a declared model gives vectors, and writes no text."""
        return root in self._embedding_models
