"""Conversations for training and for evaluation, made from the templates."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from demo_model import instructions, letters
from demo_model.noise import hurried
from demo_model.wording import (
    Language,
    Service,
    Talk,
    Topic,
    Wording,
    capitalise,
    split_article,
    stable_index,
)

# Few, since they cost the most: enough to meet positions past those of short prompts.
LONG_SHARE = 0.006

Split = Literal["train", "templates", "combinations"]
Message = dict[str, Any]

# Their remarks carry two feelings, or none: no single label would be right.
_UNLABELLED = ("mixed", "tell_me_more")


@dataclass(frozen=True)
class Example:
    """One conversation whose last message is the answer to learn, and what a right answer shows."""

    messages: tuple[Message, ...]
    language: Language
    task: str
    service: str = ""  # noun the answer must name, if any
    label: str = ""  # exact answer of a classification, if it is one
    tools: tuple[dict[str, Any], ...] = ()  # that the client offers
    thinking: bool = False  # a thought is asked for

    @property
    def prompt(self) -> str:
        """The last thing the user says."""
        return next(str(one["content"]) for one in self.messages[::-1] if one["role"] == "user")

    @property
    def answer(self) -> str:
        """The answer to learn."""
        return str(self.messages[-1]["content"])


@dataclass(frozen=True)
class Remark:
    """A remark with all that its answers need."""

    topic: Topic
    text: str
    answer: str
    noun: str
    asked: dict[str, str]
    answered: dict[str, str]


def pick(templates: tuple[str, ...], split: Split, rng: random.Random) -> str:
    """The last template of a bank belongs to the held-out set, the others to training."""
    return templates[-1] if split == "templates" else rng.choice(templates[:-1])


def is_held_out(topic: Topic, service: Service) -> bool:
    """Whether training never joins this topic with this service."""
    return stable_index(f"{topic.key}|{service.name}", 12) == 0


class Conversations:
    """Makes examples of one language for one split."""

    def __init__(self, wording: Wording, split: Split, rng: random.Random) -> None:
        self.words, self.split, self.rng = wording, split, rng
        self.language: Language = wording.language

    def remark(self, topic: Topic | None = None, split: Split | None = None) -> Remark:
        """A bare remark about a topic, with its answer."""
        rng, words, split = self.rng, self.words, split or self.split
        topics = [topic] if topic else list(words.topics)
        if split == "combinations":
            topics = [candidate for candidate in topics if candidate.services]
        topic = rng.choice(topics)
        asked, answered = words.bound(rng)
        noun, variant = "", 0
        if topic.services:
            service = words.service(rng, topic.services)
            while is_held_out(topic, service) != (split == "combinations"):
                service = words.service(rng, topic.services)
            asked, answered = asked | words.asked(service, rng), answered | words.answered(service)
            noun = (
                service.name.removeprefix("the ")
                if self.language == "en"
                else split_article(service.name)[1]
            )
            variant = ("admin", "health", "edu", "leisure").index(service.group)
        else:
            # The wording of the answer follows from the thing named, so that it can be learnt, not guessed.
            variant = stable_index(answered["doc"] + answered["money"], 4)
        text = capitalise(words.fill(pick(topic.remarks, split, rng), rng, asked))
        # One opening per topic: a choice between equals would blur the first words, which decide the rest.
        first = words.fill(topic.first[0], rng, answered)
        then = words.fill(topic.then[variant // 2 % len(topic.then)], rng, answered)
        return Remark(topic, text, f"{capitalise(first)} {capitalise(then)}", noun, asked, answered)

    def in_context(self, remark: Remark) -> str:
        """Put a greeting, circumstances and a closing around a remark."""
        rng, words, text = self.rng, self.words, remark.text
        if rng.random() < 0.4:
            opening = words.fill(rng.choice(words.context["before"]), rng, {})
            if (
                opening[-1] in ",:"
                and text.split()[0] not in ("I", "I'm", "France", "Pôle")
                and rng.random() < 0.7
            ):
                text = text[0].lower() + text[1:]
            text = f"{opening} {text}"
        if rng.random() < 0.35:
            closings = words.context["after_praise" if remark.topic.kind == "praise" else "after"]
            text += (
                ("" if text[-1] in ".!?" else ".") + " " + words.fill(rng.choice(closings), rng, {})
            )
        return text

    def remark_example(self) -> Example:
        """A remark and its short answer."""
        remark = self.remark()
        text = self.in_context(remark)
        if self.rng.random() < LONG_SHARE:
            text = f"{self._rambling()} {text}"
        return self._example(text, remark.answer, "remark", service=remark.noun)

    def _rambling(self) -> str:
        """Many sentences that do not matter, so that a long prompt is nothing new."""
        rng, openings = self.rng, self.words.context["before"]
        chosen = rng.choices(openings, k=rng.randint(8, 60))
        return " ".join(self.words.fill(sentence, rng, {}) for sentence in chosen)

    def label_example(self) -> Example:
        """A remark and its label; asked for in the message or in the system prompt."""
        rng = self.rng
        labelled = [topic for topic in self.words.topics if topic.key not in _UNLABELLED]
        kind = rng.choice(("praise", "complaint", "complaint", "suggestion", "question"))
        if kind == "question":
            questions = [
                talk
                for talk in self.words.talks
                if talk.key.endswith(("_question", "_doc", "_price", "_time"))
            ]
            text = self._talk_text(
                rng.choice([talk for talk in questions if talk.key != "lost_doc"])
            )[0]
        else:
            remark = self.remark(rng.choice([topic for topic in labelled if topic.kind == kind]))
            text = self.in_context(remark) if rng.random() < 0.3 else remark.text
        roll = rng.random()
        if roll < 0.15:
            label = instructions.LABELS[self.language][kind]
            system: Message = {
                "role": "system",
                "content": instructions.LABEL_SYSTEM[self.language],
            }
            return self._example(text, label, "label", label=label, system=system)
        sentiment = roll < 0.35
        label = (instructions.SENTIMENTS if sentiment else instructions.LABELS)[self.language][kind]
        request = pick(
            (instructions.SENTIMENT if sentiment else instructions.CLASSIFY)[self.language],
            self.split,
            rng,
        )
        return self._example(
            self.words.fill(request, rng, {"x": text}), label, "label", label=label
        )

    def talk_example(self, only: Callable[[Talk], bool]) -> Example:
        """Small talk, a practical question or an off-topic request."""
        talks = [talk for talk in self.words.talks if only(talk)]
        # What a newcomer types first must be learnt best.
        weights = [5 if talk.key in _FIRST_WORDS else 1 for talk in talks]
        talk = self.rng.choices(talks, weights)[0]
        text, answer, noun = self._talk_text(talk)
        return self._example(text, answer, talk.key, service=noun)

    def fact_example(self) -> Example:
        """A small question with one right answer."""
        rng, words, facts = self.rng, self.words, self.words.facts
        match rng.randrange(4):
            case 0:
                country, capital = rng.choice(list(facts["capitals"].items()))
                key = "country" if self.language == "en" else "de_pays"
                slots = {key: country, "capital": capital}
                prompts, answer = (
                    facts["capital_prompts"],
                    words.fill(facts["capital_answer"], rng, slots),
                )
            case 1:
                a, b = rng.randint(0, 10), rng.randint(0, 10)
                slots = {"a": str(a), "b": str(b), "c": str(a + b)}
                prompts, answer = facts["sum_prompts"], words.fill(facts["sum_answer"], rng, slots)
            case _:
                slots = {}
                answer, prompts = rng.choice(list(facts["fixed"].items()))
        return self._example(
            words.fill(pick(tuple(prompts), self.split, rng), rng, slots), answer, "fact"
        )

    def echo_example(self) -> Example:
        """Something to repeat: practice in copying names, which every answer needs."""
        rng, words = self.rng, self.words
        service = words.service(rng, ("admin", "health", "edu", "leisure"))
        answered = words.bound(rng)[1] | words.answered(service)
        text = words.fill(rng.choice(instructions.ECHOED[self.language]), rng, answered)
        request = pick(instructions.ECHO[self.language], self.split, rng)
        return self._example(words.fill(request, rng, {"x": text}), text, "echo", hurry=False)

    def letter_example(self) -> Example:
        """A request for a letter or for a detailed answer, and the long text."""
        rng, words = self.rng, self.words
        remark = self.remark(
            rng.choice([topic for topic in words.topics if topic.key != "tell_me_more"])
        )
        # The writer speaks of "my street", where the answer to a remark would say "your street".
        slots = remark.answered | {"street": remark.asked["street"]}
        about = words.fill(rng.choice(remark.topic.about), rng, slots)
        kind, noun = remark.topic.kind, remark.noun
        if rng.random() < 0.4:
            # Matters that no topic has: the letter must take up whatever it is asked about.
            about, kind = words.fill(rng.choice(words.slots["matter"]), rng, slots), "complaint"
            noun = ""
        if rng.random() < 0.5:
            requests = letters.REQUESTS if remark.noun else letters.PLAIN_REQUESTS
            bank = requests[self.language]
            prompt = words.fill(pick(bank, self.split, rng), rng, slots | {"about": about})
            text = letters.from_citizen(self.language, kind, about)
        else:
            bank, noun = letters.DETAILED[self.language], remark.noun
            prompt = words.fill(pick(bank, self.split, rng), rng, {"x": remark.text})
            text = letters.from_service(self.language, remark.topic.kind, remark.answer)
        return self._example(capitalise(prompt), text, "letter", service=noun)

    def dialogue_example(self) -> Example:
        """Two turns: an opening with its answer, then what is to be answered."""
        rng, words = self.rng, self.words
        if rng.random() < 0.35:
            text, answer, _ = self._talk_text(
                rng.choice([t for t in words.talks if t.key in _OPENINGS]), split="train"
            )
            following = self.remark_example() if rng.random() < 0.7 else self.any_talk_example()
        else:
            remark = self.remark(split="train")
            text, answer = self.in_context(remark), remark.answer
            roll = rng.random()
            if roll < 0.3:
                following = self.remark_example()
            elif roll < 0.45 and remark.topic.key not in _UNLABELLED:
                label = instructions.LABELS[self.language][remark.topic.kind]
                request = words.fill(rng.choice(instructions.RELABEL[self.language]), rng, {})
                # Its few phrasings cannot be split, so it stays out of the held-out sets.
                following = self._example(
                    request, label, "label" if self.split == "train" else "", label=label
                )
            else:
                following = self.talk_example(lambda talk: talk.key in _FOLLOWINGS)
        opening: tuple[Message, ...] = (
            {"role": "user", "content": hurried(text, rng)},
            {"role": "assistant", "content": answer},
        )
        rest = tuple(message for message in following.messages if message["role"] != "system")
        return Example(
            opening + rest, self.language, following.task, following.service, following.label
        )

    def any_talk_example(self) -> Example:
        """Any small talk or practical question that can open a conversation."""
        return self.talk_example(lambda talk: talk.key not in ("off_topic", *_AFTER_ONLY))

    def _talk_text(self, talk: Talk, split: Split | None = None) -> tuple[str, str, str]:
        rng, words = self.rng, self.words
        asked, answered = words.bound(rng)
        noun, answer = "", talk.answers[0]
        if any(slot in answer for slot in ("{svc}", "{le}", "{du}", "{au}")):
            service = words.service(rng, ("admin", "health", "edu", "leisure"))
            asked, answered = asked | words.asked(service, rng), answered | words.answered(service)
            noun = (
                service.name.removeprefix("the ")
                if self.language == "en"
                else split_article(service.name)[1]
            )
        text = words.fill(pick(talk.prompts, split or self.split, rng), rng, asked)
        return capitalise(text), capitalise(words.fill(answer, rng, answered)), noun

    def _example(
        self,
        prompt: str,
        answer: str,
        task: str,
        *,
        service: str = "",
        label: str = "",
        system: Message | None = None,
        hurry: bool = True,
    ) -> Example:
        rng = self.rng
        messages: list[Message] = [
            {"role": "user", "content": hurried(prompt, rng) if hurry else prompt},
            {"role": "assistant", "content": answer},
        ]
        if system is not None:
            messages.insert(0, system)
        elif rng.random() < 0.2:
            messages.insert(0, self.system_prompt())
        return Example(tuple(messages), self.language, task, service, label)

    def system_prompt(self) -> Message:
        """A system prompt of any kind; now and then an English one before French text, or the reverse."""
        rng, language = self.rng, self.language
        if rng.random() < 0.15:
            language = "en" if language == "fr" else "fr"
        content = self.words.fill(rng.choice(instructions.SYSTEM[language]), rng, {})
        return {"role": "system", "content": content}


_FIRST_WORDS = (
    "greeting",
    "who_are_you",
    "what_is_relais",
    "what_can_you_do",
    "vague",
    "hours_question",
)
_OPENINGS = ("greeting", "how_are_you", "who_are_you", "what_can_you_do", "vague", "what_is_relais")
_FOLLOWINGS = ("thanks", "thanks", "bye", "follow_up_when", "follow_up_how", "nice", "insult")
_AFTER_ONLY = ("follow_up_when", "follow_up_how")
