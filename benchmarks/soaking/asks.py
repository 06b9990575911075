"""What the clients ask for, and what they must get: both follow from the seed and a number."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal

from relais_llm_worker.engines.engine_deterministic import answer_text
from relais_testing.process_stack import MODEL

# How a client goes about it: reads at once; hangs up now and then; comes after the end; asks for the whole at once;
# cancels in the middle.
Manner = Literal["stream", "restless", "late", "whole", "cancel"]
MANNERS: tuple[Manner, ...] = ("stream", "restless", "late", "whole", "cancel")
KEYS = ("alice", "bob", "carol", "dave")
PROMPTS = [
    f"{opening} {rest}"
    for opening, endings in (
        ("Nobody told us why", ("the pool is closed.", "my passport is late.", "buses are full.")),
        ("Many thanks to", ("the nurses.", "the town hall.", "whoever answered the phone.")),
        ("How do I", ("renew my licence?", "pay for the canteen?", "reach the tax office?")),
        ("I had to wait two hours at", ("the hospital.", "the counter.", "the post office.")),
        ("Please repair", ("the lamp in our street.", "the website.", "the lift at the library.")),
        ("J'attends depuis un mois", ("mon passeport.", "une réponse.", "un rendez-vous.")),
        ("Merci beaucoup pour", ("votre aide.", "l'accueil à la mairie.", "le nouveau parc.")),
        ("Personne ne répond à", ("la préfecture.", "l'école.", "la piscine.")),
        ("Pourquoi faut-il payer", ("le parking ?", "deux fois ?", "la cantine d'avance ?")),
        ("Écris une lettre sur", ("le bruit.", "les horaires du bus.", "la bibliothèque.")),
    )
    for rest in endings
]


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request is to end."""

    text: str
    output_tokens: int
    finish_reason: str
    stop_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of one client.

    Attributes:
        body: for `POST /v1/requests`, or for `/v1/chat/completions` where the manner is `whole`.
        expected: None where this run is to find out.
        prompt: which prompt it is, for those that are asked more than once.
    """

    number: int
    manner: Manner
    key: str
    body: dict[str, Any]
    expected: Answer | None
    prompt: int = 0


def deterministic_ask(seed: int, number: int) -> Ask:
    """The request with this number: 30 to 300 tokens; some chats, some with a stop string, some to be restarted."""
    rng = random.Random(f"{seed}/{number}")
    manner = rng.choices(MANNERS, [56, 20, 10, 10, 4])[0]
    max_tokens = rng.randint(30, 300)
    content = f"soak {seed} request {number} " + "filler " * rng.randint(0, 40)
    fields: dict[str, Any] = {"priority": rng.choices(["high", "normal", "low"], [1, 8, 1])[0]}
    if manner == "whole" or rng.random() < 0.3:
        prompt = f"<user>{content}<assistant>"
        fields["messages"] = [{"role": "user", "content": content}]
    else:
        prompt = content
        fields["prompt"] = content
    expected = _expected(list(prompt.encode()), max_tokens)
    params: dict[str, Any] = {"max_tokens": max_tokens}
    if rng.random() < 0.2:
        stop = _stop_string(expected.text, rng)
        params["stop"] = stop
        expected = _expected(list(prompt.encode()), max_tokens, stop)
    if manner != "whole" and rng.random() < 0.08:
        # What cannot go on exactly: the answer begins again after each loss of its worker.
        params |= {"seed": number, "temperature": 1.0}
        fields["on_worker_loss"] = "restart"
    extra = params if manner == "whole" else {"params": params}
    body = {"model": MODEL, "on_disconnect": "continue", **fields, **extra}
    return Ask(number, manner, rng.choice(KEYS), body, expected)


def demo_asks(seed: int) -> list[Ask]:
    """Prompts for the demo model, greedy: each once up to the model's own end, once for up to 400 tokens."""
    rng = random.Random(f"{seed}/demo")
    asks: list[Ask] = []
    for prompt in PROMPTS:
        for params in (
            {"max_tokens": 200},
            {"max_tokens": rng.randint(100, 400), "ignore_eos": True},
        ):
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": prompt}],
                "params": {"temperature": 0, **params},
            }
            number = len(asks)
            manner = rng.choice(MANNERS[:3])
            asks.append(Ask(number, manner, rng.choice(KEYS), body, None, prompt=number))
    return asks


def _stop_string(text: str, rng: random.Random) -> str:
    """A few letters that are in the answer, across the border of two words."""
    begin = rng.randrange(len(text) // 2, len(text) - 12)
    return text[begin : begin + rng.randint(6, 12)]


def _expected(prompt: list[int], max_tokens: int, stop: str | None = None) -> Answer:
    text = answer_text(prompt, max_tokens)
    if stop is None or stop not in text:
        return Answer(text, max_tokens, "length")
    # The fewest tokens whose text has the stop string.
    low, high = 1, max_tokens
    while low < high:
        middle = (low + high) // 2
        if stop in answer_text(prompt, middle):
            high = middle
        else:
            low = middle + 1
    return Answer(text.partition(stop)[0], low, "stop", stop)
