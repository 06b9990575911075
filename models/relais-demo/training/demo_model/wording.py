"""Templates and words: from a TOML template to one concrete sentence.

A template offers choices in square brackets (``[a|b|]``) and named slots in braces (``{dur}``). A slot with
a capital (``{Dur}``) starts a sentence. Slots that the answer repeats are bound once per example; the others
are drawn afresh each time, so that one template yields very many sentences.
"""

from __future__ import annotations

import random
import re
import tomllib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Language = Literal["fr", "en"]
LANGUAGES: tuple[Language, ...] = ("fr", "en")
TEMPLATES = Path(__file__).parent / "templates"

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeiouAEIO])(?!uni|use|eur|one)")
_VOWELS = "aàâeéèêiîoôuûyhAÀÂEÉÈÊIÎOÔUÛYH"
# Invented towns teach copying of names never seen, which no list of real towns can.
_SYLLABLES = [
    "bal",
    "mor",
    "ven",
    "tis",
    "lor",
    "gan",
    "sar",
    "del",
    "pon",
    "ric",
    "mel",
    "tur",
    "vas",
    "nor",
    "bri",
    "cal",
    "fon",
    "gre",
    "hal",
    "jus",
    "kel",
    "lan",
    "mar",
    "quin",
]
_ENDINGS = [
    "ville",
    "mont",
    "sur",
    "bourg",
    "ton",
    "ford",
    "ac",
    "y",
    "ey",
    "ières",
    "val",
    "dale",
    "wick",
    "ham",
    "court",
    "ay",
]


def stable_index(text: str, size: int) -> int:
    """Choose an index from a text alone; Python's own hash changes between processes."""
    return zlib.crc32(text.encode()) % size


@cache
def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((TEMPLATES / f"{name}.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Service:
    """A public service: its full name with article, its group, and the town it is in, if said."""

    name: str
    group: str
    town: str = ""


@dataclass(frozen=True)
class Topic:
    """One subject of remarks with the sentences for it."""

    key: str
    kind: str
    services: tuple[str, ...]
    remarks: tuple[str, ...]
    first: tuple[str, ...]
    then: tuple[str, ...]
    about: tuple[str, ...]


@dataclass(frozen=True)
class Talk:
    """A group of prompts that share their answer."""

    key: str
    prompts: tuple[str, ...]
    answers: tuple[str, ...]


def split_article(name: str) -> tuple[str, str]:
    """Separate a French noun from its article: ``("la", "mairie")``; a bare proper name has none."""
    if name.startswith("l'"):
        return "l'", name[2:]
    head, _, tail = name.partition(" ")
    return (head, tail) if head in ("le", "la", "les") else ("", name)


def of_french(name: str) -> str:
    """``de`` before a noun with article: ``de la mairie``, ``du lycée``, ``des urgences``."""
    article, noun = split_article(name)
    if not article:
        return ("d'" if noun[0] in _VOWELS else "de ") + noun
    return {"le": f"du {noun}", "les": f"des {noun}"}.get(article, f"de {name}")


def at_french(name: str) -> str:
    """``à`` before a noun with article: ``à la mairie``, ``au lycée``, ``aux urgences``."""
    article, noun = split_article(name)
    return {"le": f"au {noun}", "les": f"aux {noun}"}.get(article, f"à {name}")


def own_french(name: str, *, person: str) -> str:
    """Turn the article into a possessive: person ``"m"`` gives mon/ma/mes, ``"v"`` gives votre/vos."""
    article, noun = split_article(name)
    if person == "v":
        return f"vos {noun}" if article == "les" else f"votre {noun}"
    return {"la": "ma", "les": "mes"}.get(article, "mon") + f" {noun}"


def one_french(name: str) -> str:
    """Turn the definite article into the indefinite one."""
    article, noun = split_article(name)
    return {"la": "une", "les": "des"}.get(article, "un") + f" {noun}"


def capitalise(text: str) -> str:
    """Upper-case the first letter only; ``str.capitalize`` would lower the rest."""
    return text[:1].upper() + text[1:]


def to_reader(text: str) -> str:
    """Turn the writer's own street into the reader's: the answer speaks to the writer."""
    pairs = (
        ("ma rue", "votre rue"),
        ("notre rue", "votre rue"),
        ("mon quartier", "votre quartier"),
        ("chez moi", "chez vous"),
        ("my street", "your street"),
        ("our street", "your street"),
    )
    for mine, yours in pairs:
        text = text.replace(mine, yours)
    return text


class Wording:
    """All templates and words of one language."""

    def __init__(self, language: Language) -> None:
        self.language: Language = language
        lexicon, words = _toml(f"lexicon_{language}"), _toml(f"words_{language}")
        self.services: dict[str, list[str]] = {
            group: lexicon["services"][group] for group in ("admin", "health", "edu", "leisure")
        }
        self.stems: list[str] = lexicon["services"]["stems"]
        self.offices: list[str] = lexicon["services"]["offices"]
        self.slots: dict[str, list[str]] = lexicon["slots"] | {
            key: words[key] for key in ("thing", "act", "event", "matter")
        }
        self.context: dict[str, list[str]] = lexicon["context"]
        self.facts: dict[str, Any] = words["facts"]
        self.tools: dict[str, Any] = _toml(f"tools_{language}")
        self.topics = tuple(
            Topic(
                key,
                table["kind"],
                *(tuple(table[part]) for part in ("services", "remarks", "first", "then", "about")),
            )
            for key, table in _toml(f"remarks_{language}").items()
        )
        self.talks = tuple(
            Talk(key, tuple(table["prompts"]), tuple(table["answers"]))
            for key, table in _toml(f"talk_{language}").items()
        )

    def town(self, rng: random.Random) -> str:
        """A real town, or an invented one."""
        return rng.choice(self.slots["town"]) if rng.random() < 0.65 else self.invented(rng)

    def invented(self, rng: random.Random) -> str:
        """A name that exists nowhere."""
        return capitalise(
            "".join(rng.choices(_SYLLABLES, k=rng.choice((1, 2)))) + rng.choice(_ENDINGS)
        )

    def service(self, rng: random.Random, groups: tuple[str, ...]) -> Service:
        """A service of one of the groups; now and then an invented office, so that any name can be repeated."""
        town = self.town(rng) if rng.random() < 0.35 else ""
        if rng.random() < 0.2:
            stem, office = rng.choice(self.stems), rng.choice(self.offices)
            if rng.random() < 0.5:
                stem = self.invented(rng)
            return Service(
                f"{office} {stem}" if self.language == "fr" else f"the {stem} {office}",
                "admin",
                town,
            )
        # Long lists weigh more, yet a short one must not vanish.
        group = rng.choices(groups, weights=[len(self.services[group]) ** 0.5 for group in groups])[
            0
        ]
        return Service(rng.choice(self.services[group]), group, town)

    def asked(self, service: Service, rng: random.Random) -> dict[str, str]:
        """Slots that name the service as the citizen writes it."""
        name, roll = service.name, rng.random()
        if self.language == "en":
            if name.startswith("the ") and roll < 0.12:
                name = rng.choice(("my", "our", "your", "my local", "the local", "")) + name[3:]
            return self._named(name.strip(), service.town)
        article, noun = split_article(name)
        if article and roll < 0.1:
            owner = (
                rng.choice(("ma", "notre", "votre"))
                if article == "la"
                else rng.choice(("notre", "votre"))
            )
            owner = {"les": "nos"}.get(article, owner)
            return self._named(f"{owner} {noun}", service.town)
        return self._named(name, service.town)

    def answered(self, service: Service) -> dict[str, str]:
        """Slots that name the service as the answer does: always in full, with its plain article."""
        return self._named(service.name, service.town)

    def _named(self, name: str, town: str) -> dict[str, str]:
        if self.language == "en":
            return {"svc": f"{name} in {town}" if town else name}
        if town:
            name += (
                f" d'{town}" if town[0] in _VOWELS[:-2] and town[0] not in "yY" else f" de {town}"
            )
        return {"le": name, "du": of_french(name), "au": at_french(name)}

    def bound(self, rng: random.Random) -> tuple[dict[str, str], dict[str, str]]:
        """Slots that prompt and answer share, as each of the two says them."""
        names = ("doc", "money", "street", "spot", "line", "jobcentre", "idea", "web", "person")
        drawn = {name: rng.choice(self.slots[name]) for name in names}
        drawn = {name: self.fill(text, rng, {}) for name, text in drawn.items()}
        if self.language == "fr":
            drawn |= {
                "mondoc": own_french(drawn["doc"], person="m"),
                "votredoc": own_french(drawn["doc"], person="v"),
                "undoc": one_french(drawn["doc"]),
                "monargent": own_french(drawn["money"], person="m"),
                "votreargent": own_french(drawn["money"], person="v"),
            }
        return drawn, drawn | {"street": to_reader(drawn["street"])}

    def fill(self, template: str, rng: random.Random, bound: Mapping[str, str]) -> str:
        """Make one sentence of a template."""
        text = template
        while _CHOICE.search(text):
            text = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)
        while _SLOT.search(text):
            text = _SLOT.sub(lambda match: self._slot(match[1], rng, bound), text)
        french = self.language == "fr"
        text = text.replace("' ", "'") if french else _BEFORE_VOWEL.sub(r"\1n ", text)
        return re.sub(r"\s+", " ", text).strip()

    def _slot(self, name: str, rng: random.Random, bound: Mapping[str, str]) -> str:
        key = name.lower()
        if key in bound:
            word = bound[key]
        elif key == "town":
            word = self.town(rng)
        elif key == "age":
            word = str(rng.randint(17, 92))
        elif key == "k":
            word = str(rng.randint(2, 999))
        else:
            word = rng.choice(self.slots["first_name" if key == "name" else key])
        return capitalise(word) if name[0].isupper() else word
