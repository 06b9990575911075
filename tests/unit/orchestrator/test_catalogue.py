"""Names of models: aliases, and who may use which."""

from __future__ import annotations

import pytest

from relais_common.config.api_keys import ApiKey
from relais_common.jobs.errors import ModelNotFound, SettingsError
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.submission.catalogue import Catalogue

MODELS = ("org/one", "two")
ALIASES = {"first": "org/one", "default": "first"}
ANYBODY = Caller("anybody", ApiKey(digests=()))


def caller(*models: str) -> Caller:
    return Caller("somebody", ApiKey(digests=(), models=frozenset(models)))


def test_an_alias_leads_to_its_model_by_way_of_others() -> None:
    catalogue = Catalogue(MODELS, ALIASES)
    assert catalogue.names_of(ANYBODY) == ("org/one", "two", "first", "default")
    roots = [catalogue.root_of(name, ANYBODY) for name in catalogue.names_of(ANYBODY)]
    assert roots == ["org/one", "two", "org/one", "org/one"]
    with pytest.raises(ModelNotFound):
        catalogue.root_of("three", ANYBODY)


@pytest.mark.parametrize(
    ("allowed", "names"),
    [
        (("org/one",), ("org/one", "first", "default")),
        (("default",), ("default",)),
        (("two", "first"), ("two", "first")),
        ((), ()),
    ],
)
def test_a_key_for_a_model_is_one_for_its_aliases_and_not_the_other_way_round(
    allowed: tuple[str, ...], names: tuple[str, ...]
) -> None:
    catalogue, who = Catalogue(MODELS, ALIASES), caller(*allowed)
    assert catalogue.names_of(who) == names
    for name in (*MODELS, *ALIASES):
        if name in names:
            catalogue.root_of(name, who)
        else:
            with pytest.raises(ModelNotFound):
                catalogue.root_of(name, who)


@pytest.mark.parametrize(
    ("aliases", "words"),
    [
        ({"a": "nobody"}, "leads to 'nobody'"),
        ({"a": "b", "b": "nobody"}, "leads to 'nobody'"),
        ({"a": "a"}, "circle: a -> a"),
        ({"a": "b", "b": "c", "c": "b"}, "circle"),
        ({"two": "org/one"}, "a model itself"),
        ({"": "two"}, "model name"),
    ],
)
def test_an_alias_that_leads_nowhere_is_one_error_that_names_the_setting(
    aliases: dict[str, str], words: str
) -> None:
    with pytest.raises(SettingsError, match="MODEL_ALIASES") as caught:
        Catalogue(MODELS, aliases)
    assert words in str(caught.value)
