"""The training sets and the held-out sets, with no prompt in common."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import cast

from demo_model.agents import Agents
from demo_model.examples import Conversations, Example, Split
from demo_model.noise import folded
from demo_model.wording import LANGUAGES, Talk, Wording

Recipes = tuple[tuple[Callable[[], Example], float], ...]


def _off_topic(talk: Talk) -> bool:
    return talk.key in ("off_topic", "other_language")


def recipes(maker: Conversations) -> Recipes:
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


def further_recipes(maker: Conversations) -> Recipes:
    """What the second pass is made of: half of it as before, so that nothing is unlearnt."""
    return (
        *((make, share / 2) for make, share in recipes(maker)),
        *((make, 0.36 * share) for make, share in tool_recipes(maker)),
        *((make, 0.14 * share) for make, share in thinking_recipes(maker)),
    )


def tool_recipes(maker: Conversations) -> Recipes:
    """Conversations with tools."""
    agents = Agents(maker)
    return ((agents.single, 0.62), (agents.double, 0.2), (agents.no_call, 0.18))


def thinking_recipes(maker: Conversations) -> Recipes:
    """Answers with a thought."""
    agents = Agents(maker)
    return ((agents.remark_thought, 0.65), (agents.talk_thought, 0.35))


def stream(
    split: Split, seed: int, mix: Callable[[Conversations], Recipes] = recipes
) -> Iterator[Example]:
    """Endless examples of a split, the two languages in turn. The same seed and mix give the same stream."""
    name = "" if mix is recipes else f"{mix.__name__}-"
    rng = random.Random(f"{name}{split}-{seed}")
    makers = [Conversations(Wording(language), split, rng) for language in LANGUAGES]
    tables = [tuple(zip(*mix(maker), strict=True)) for maker in makers]
    while True:
        for functions, shares in tables:
            yield cast(Callable[[], Example], rng.choices(functions, shares)[0])()


def prompt_key(example: Example) -> str:
    """What makes two prompts the same: every user turn, however typed. The system prompt does not count."""
    return " / ".join(
        folded(message["content"]) for message in example.messages if message["role"] == "user"
    )


def held_out(
    split: Split, seed: int, size: int, mix: Callable[[Conversations], Recipes] = recipes
) -> list[Example]:
    """Distinct examples that training must not see."""
    chosen: dict[str, Example] = {}
    for example in stream(split, seed, mix):
        # A prompt of signs alone folds to nothing, and an example without a task cannot be held out.
        if example.task and len(prompt_key(example)) > 3:
            chosen.setdefault(prompt_key(example), example)
        if len(chosen) == size:
            break
    return list(chosen.values())


def training(
    seed: int,
    size: int,
    forbidden: list[Example],
    mix: Callable[[Conversations], Recipes] = recipes,
) -> list[Example]:
    """Examples for training, without any last question of the held-out sets."""
    banned = {prompt_key(example) for example in forbidden} | {
        folded(example.prompt) for example in forbidden
    }
    chosen: list[Example] = []
    for example in stream("train", seed, mix):
        if prompt_key(example) not in banned and folded(example.prompt) not in banned:
            chosen.append(example)
        if len(chosen) == size:
            break
    return chosen
