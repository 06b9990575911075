"""The training set and the two held-out sets, with no prompt in common."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import cast

from demo_model.examples import Conversations, Example, Split
from demo_model.noise import folded
from demo_model.wording import LANGUAGES, Talk, Wording


def _off_topic(talk: Talk) -> bool:
    return talk.key in ("off_topic", "other_language")


def recipes(maker: Conversations) -> tuple[tuple[Callable[[], Example], float], ...]:
    """What a split is made of, and in which shares."""
    if maker.split == "combinations":
        return ((maker.remark_example, 1.0),)
    return (
        (maker.remark_example, 0.46),
        (maker.label_example, 0.11),
        (maker.any_talk_example, 0.14),
        (lambda: maker.talk_example(_off_topic), 0.09),
        (maker.fact_example, 0.05),
        (maker.letter_example, 0.04),
        (maker.dialogue_example, 0.06),
        (maker.echo_example, 0.05),
    )


def stream(split: Split, seed: int) -> Iterator[Example]:
    """Endless examples of a split, the two languages in turn. The same seed gives the same stream."""
    rng = random.Random(f"{split}-{seed}")
    makers = [Conversations(Wording(language), split, rng) for language in LANGUAGES]
    while True:
        for maker in makers:
            functions, shares = zip(*recipes(maker), strict=True)
            yield cast(Callable[[], Example], rng.choices(functions, shares)[0])()


def prompt_key(example: Example) -> str:
    """What makes two prompts the same: every user turn, however typed. The system prompt does not count."""
    return " / ".join(
        folded(message["content"]) for message in example.messages if message["role"] == "user"
    )


def held_out(split: Split, seed: int, size: int) -> list[Example]:
    """Distinct examples that training must not see."""
    chosen: dict[str, Example] = {}
    for example in stream(split, seed):
        # A prompt of signs alone folds to nothing, and an example without a task cannot be held out.
        if example.task and len(prompt_key(example)) > 3:
            chosen.setdefault(prompt_key(example), example)
        if len(chosen) == size:
            break
    return list(chosen.values())


def training(seed: int, size: int, forbidden: list[Example]) -> list[Example]:
    """Examples for training, without any last question of the held-out sets."""
    banned = {prompt_key(example) for example in forbidden} | {
        folded(example.prompt) for example in forbidden
    }
    chosen: list[Example] = []
    for example in stream("train", seed):
        if prompt_key(example) not in banned and folded(example.prompt) not in banned:
            chosen.append(example)
        if len(chosen) == size:
            break
    return chosen
