"""Make clean prompts look typed in a hurry: people drop accents, capitals, apostrophes and letters."""

from __future__ import annotations

import random
import re
import unicodedata

_WORD = re.compile(r"[^\W\d_]{5,}")


def without_accents(text: str) -> str:
    """Drop accents and keep the letters."""
    return "".join(
        char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char)
    )


def folded(text: str) -> str:
    """What is left of a prompt when hurry is ignored; two prompts that fold alike count as the same."""
    return " ".join(re.findall(r"[a-z0-9]+", without_accents(text.replace("œ", "oe")).lower()))


def _mistyped(word: str, rng: random.Random) -> str:
    place = rng.randrange(1, len(word) - 1)
    match rng.randrange(4):
        case 0:
            return word[:place] + word[place + 1 :]
        case 1:
            return word[:place] + word[place] + word[place:]
        case 2:
            return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        case _:
            return word[:place] + rng.choice("aeiourstnl") + word[place + 1 :]


def with_typos(text: str, rng: random.Random, count: int) -> str:
    """Mistype some words. Words with a capital are spared: a name must stay as the answer repeats it."""
    words = [match for match in _WORD.finditer(text) if match[0].islower()]
    for match in sorted(
        rng.sample(words, min(count, len(words))), key=lambda found: -found.start()
    ):
        text = text[: match.start()] + _mistyped(match[0], rng) + text[match.end() :]
    return text


def hurried(text: str, rng: random.Random) -> str:
    """Leave about half of the prompts clean and wear out the others."""
    if rng.random() < 0.5:
        return text
    if rng.random() < 0.35:
        text = with_typos(text, rng, rng.choice((1, 1, 2)))
    if rng.random() < 0.45:
        text = text.lower()
    elif rng.random() < 0.04:
        text = text.upper()
    if rng.random() < 0.4:
        text = without_accents(text)
    if rng.random() < 0.5:
        text = text.rstrip(" .!?")
    if rng.random() < 0.15:
        text = text.replace("'", rng.choice((" ", "", "’", "’")))
    if rng.random() < 0.1:
        text = text.replace(",", "")
    if rng.random() < 0.06:
        text += rng.choice(("!!", " !!!", "...", " ?", "??"))
    return text
