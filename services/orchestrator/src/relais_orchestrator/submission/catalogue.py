"""The model names that requests may use: declared models and their aliases."""

from __future__ import annotations

from collections.abc import Mapping

from relais_common.config.aliases import roots_of
from relais_common.jobs.errors import ModelNotFound
from relais_common.jobs.job import ModelOperation, Operation
from relais_orchestrator.access.auth import Caller


class Catalogue:
    """Maps every name to its model.

    Args:
        models: the declared ones.
        aliases: other names; each refers to a declared model or to another alias.
        kinds: what declared models are for, if they do not write text.

    Raises:
        SettingsError: an alias does not resolve to a declared model; names `MODEL_ALIASES`.
    """

    def __init__(
        self,
        models: tuple[str, ...],
        aliases: Mapping[str, str],
        kinds: Mapping[str, ModelOperation] | None = None,
    ) -> None:
        self._kinds = kinds or {}
        self._roots = {model: model for model in models} | roots_of(aliases, models)

    def names_of(self, caller: Caller) -> tuple[str, ...]:
        """Return the names that a caller may use. A key that may use a model may use all its aliases."""
        allowed = caller.may.models
        return tuple(
            name
            for name, root in self._roots.items()
            if allowed is None or name in allowed or root in allowed
        )

    def root_of(self, name: str, caller: Caller) -> str:
        """Return the declared model behind a name. Raises ModelNotFound, also if the caller may not use it."""
        root = self._roots.get(name)
        allowed = caller.may.models
        if root is None or not (allowed is None or name in allowed or root in allowed):
            raise ModelNotFound(f"the model {name!r} does not exist", param="model")
        return root

    def behind(self, name: str) -> str | None:
        """Return the declared model behind a name, for operators, who see every model; None if there is none."""
        return self._roots.get(name)

    def operation_of(self, root: str) -> ModelOperation:
        """Return what a declared model is for."""
        return self._kinds.get(root, Operation.CHAT)
