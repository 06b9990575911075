"""The demo model's data: the same every time, and split so that held-out scores mean something."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest

from demo_model import dataset
from demo_model.examples import Example
from demo_model.instructions import LABELS, SENTIMENTS
from demo_model.languages import guess_language
from demo_model.noise import folded, hurried
from demo_model.wording import LANGUAGES, Wording, at_french, of_french

SIZE = 3000


@pytest.fixture(scope="module")
def held_out() -> list[Example]:
    return dataset.held_out("templates", 0, 300) + dataset.held_out("combinations", 0, 200)


@pytest.fixture(scope="module")
def training(held_out: list[Example]) -> list[Example]:
    return dataset.training(0, SIZE, held_out)


def test_the_same_seed_gives_the_same_examples() -> None:
    first, second = (list(islice(dataset.stream("train", 7), 300)) for _ in range(2))
    assert first == second


def test_another_seed_gives_other_examples() -> None:
    first, second = (list(islice(dataset.stream("train", seed), 50)) for seed in (1, 2))
    assert first != second


def test_training_and_held_out_sets_share_no_prompt(
    training: list[Example], held_out: list[Example]
) -> None:
    unseen = {dataset.prompt_key(example) for example in held_out}
    assert unseen.isdisjoint(dataset.prompt_key(example) for example in training)
    assert {folded(example.prompt) for example in held_out}.isdisjoint(
        folded(example.prompt) for example in training
    )


def test_every_answer_of_a_classification_is_one_of_the_labels(
    training: list[Example], held_out: list[Example]
) -> None:
    labelled = [example for example in training + held_out if example.label]
    assert len(labelled) > 200
    for example in labelled:
        allowed = {*LABELS[example.language].values(), *SENTIMENTS[example.language].values()}
        assert example.answer == example.label
        assert example.answer in allowed


def test_answers_name_the_service_of_the_prompt(training: list[Example]) -> None:
    named = [example for example in training if example.service and not example.label]
    assert len(named) > 500
    assert all(folded(example.service) in folded(example.answer) for example in named)


def test_no_slot_or_choice_is_left_unfilled(
    training: list[Example], held_out: list[Example]
) -> None:
    texts = [message["content"] for ex in training + held_out for message in ex.messages]
    assert not [text for text in texts if re.search(r"[{}\[\]]", text)]


def test_answers_are_in_the_language_of_the_remark(training: list[Example]) -> None:
    remarks = [example for example in training if example.task == "remark"]
    assert all(guess_language(example.answer) == example.language for example in remarks)


def test_both_languages_treat_the_same_topics() -> None:
    french, english = (Wording(language) for language in LANGUAGES)
    assert [(topic.key, topic.kind) for topic in french.topics] == [
        (topic.key, topic.kind) for topic in english.topics
    ]


@pytest.mark.parametrize(
    ("name", "of", "at"),
    [
        ("la mairie", "de la mairie", "à la mairie"),
        ("le lycée", "du lycée", "au lycée"),
        ("les urgences", "des urgences", "aux urgences"),
        ("l'hôpital", "de l'hôpital", "à l'hôpital"),
        ("France Travail", "de France Travail", "à France Travail"),
    ],
)
def test_french_articles_contract(name: str, of: str, at: str) -> None:
    assert (of_french(name), at_french(name)) == (of, at)


def test_hurry_spares_names() -> None:
    rng = random.Random(0)
    texts = [hurried("The library in Balmorville was closed.", rng) for _ in range(200)]
    assert all("balmorville" in text.lower() for text in texts)
    assert len(set(texts)) > 20
