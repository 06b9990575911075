"""Held-out scores: loss, labels, names repeated, language kept, end found, calls, thoughts; the hand-written prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from demo_model.examples import Example
from demo_model.languages import guess_language
from demo_model.noise import folded
from demo_model.probes import PROBES, Probe
from demo_model.training import answer_loss, encode, prompt_text

ANSWER_LIMIT = 260
MARK = "<tool_call>"
_LOSS_BATCH = 32
_GENERATION_BATCH = 48


@dataclass(frozen=True)
class Answer:
    """A generated answer, and whether the model ended it itself."""

    text: str
    ended: bool


@dataclass(frozen=True)
class Scores:
    """What one held-out set says about the model; None where the set has no such example."""

    name: str
    size: int
    answer_loss: float
    exact: float
    ended: float
    labels: float | None
    services: float | None
    languages: float | None


@dataclass(frozen=True)
class FurtherScores:
    """What one held-out set of the second pass says: shares by what they are of."""

    name: str
    size: int
    answer_loss: float
    shares: dict[str, float | None]


@dataclass(frozen=True)
class ProbeResult:
    """One hand-written prompt and what became of it."""

    probe: Probe
    answer: Answer
    fits: bool
    same_language: bool


def chat_prompt(tokenizer: PreTrainedTokenizerFast, example: Example) -> list[int]:
    """The ids that a server would send for this example."""
    return list(tokenizer(prompt_text(example, tokenizer), add_special_tokens=False)["input_ids"])


@torch.inference_mode()
def generate(
    network: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    report: Callable[[str], None] = lambda line: None,
) -> list[Answer]:
    """Greedy answers, in batches padded on the left."""
    answers: list[Answer] = []
    pad, end = int(tokenizer.pad_token_id), int(tokenizer.eos_token_id)
    for begin in range(0, len(prompts), _GENERATION_BATCH):
        group = prompts[begin : begin + _GENERATION_BATCH]
        width = max(map(len, group))
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in group])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in group])
        made = network.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=ANSWER_LIMIT,
            do_sample=False,
            pad_token_id=pad,
        )
        for row in made[:, width:].tolist():
            ended = end in row
            answers.append(Answer(tokenizer.decode(row[: row.index(end)] if ended else row), ended))
        report(f"answered {min(begin + _GENERATION_BATCH, len(prompts))}/{len(prompts)}")
    return answers


@torch.inference_mode()
def mean_answer_loss(
    network: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: list[Example]
) -> float:
    """Mean loss per answer token over a set."""
    encoded = sorted(encode(examples, tokenizer), key=lambda item: len(item.ids))
    total, tokens = 0.0, 0
    for begin in range(0, len(encoded), _LOSS_BATCH):
        group = encoded[begin : begin + _LOSS_BATCH]
        count = sum(len(item.ids) - item.start for item in group)
        total += answer_loss(network, group, int(tokenizer.pad_token_id)).item() * count
        tokens += count
    return total / tokens


def share(flags: list[bool]) -> float | None:
    """The part of flags that are true, or None when there are none."""
    return sum(flags) / len(flags) if flags else None


def score(
    network: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    examples: list[Example],
    report: Callable[[str], None],
) -> tuple[Scores, list[Answer]]:
    """Measure one held-out set."""
    prompts = [chat_prompt(tokenizer, example) for example in examples]
    answers = generate(network, tokenizer, prompts, report)
    pairs = list(zip(examples, answers, strict=True))
    scores = Scores(
        name=name,
        size=len(examples),
        answer_loss=mean_answer_loss(network, tokenizer, examples),
        exact=share([answer.text.strip() == example.answer for example, answer in pairs]) or 0.0,
        ended=share([answer.ended for _, answer in pairs]) or 0.0,
        labels=share([answer.text.strip() == ex.label for ex, answer in pairs if ex.label]),
        services=share(
            [folded(ex.service) in folded(answer.text) for ex, answer in pairs if ex.service]
        ),
        # A label is too short to have a language, and one fixed answer speaks both.
        languages=share(
            [
                guess_language(answer.text) == ex.language
                for ex, answer in pairs
                if not ex.label and ex.task not in ("other_language", "fact")
            ]
        ),
    )
    return scores, answers


def split_thought(text: str) -> tuple[str | None, str]:
    """The thought, if there is a whole one, and the answer."""
    found = re.fullmatch(r"<think>(.*?)</think>(.*)", text, re.DOTALL)
    return (None, text) if found is None else (found[1], found[2])


def called(text: str) -> tuple[str, Any] | None:
    """The tool's name and the arguments of the one call that is all of the text."""
    found = re.fullmatch(r"<tool_call>(.*)</tool_call>", text.strip(), re.DOTALL)
    try:
        call = json.loads(found[1]) if found else None
        return None if call is None else (call["name"], call["arguments"])
    except (ValueError, KeyError, TypeError):
        return None


def score_further(
    network: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    examples: list[Example],
    report: Callable[[str], None],
) -> tuple[FurtherScores, list[Answer]]:
    """Measure a held-out set of tools or of thoughts."""
    prompts = [chat_prompt(tokenizer, example) for example in examples]
    answers = generate(network, tokenizer, prompts, report)
    made = [split_thought(answer.text) for answer in answers]
    wanted = [split_thought(example.answer) for example in examples]
    rows = list(zip(examples, made, wanted, strict=True))
    calls = [(called(got[1]), called(right[1])) for ex, got, right in rows if ex.task == "call"]
    shares = {
        "a call, of the right tool": share(
            [got is not None and got[0] == right[0] for got, right in calls if right]
        ),
        "and with the right arguments": share([got == right for got, right in calls]),
        "answer after the result as the template has it": share(
            [got[1] == right[1] for ex, got, right in rows if ex.task == "result"]
        ),
        "no call where none is needed": share(
            [MARK not in got[1] for ex, got, _ in rows if ex.task == "no call"]
        ),
        "thinks where asked to, and then answers": share(
            [got[0] is not None and bool(got[1]) for ex, got, _ in rows if ex.thinking]
        ),
        "thought as the template has it": share(
            [got[0] == right[0] for ex, got, right in rows if ex.thinking]
        ),
        "no thought where none is asked for": share(
            [
                "think>" not in answer.text
                for ex, answer in zip(examples, answers, strict=True)
                if not ex.thinking
            ]
        ),
        "names the right service": share(
            [
                folded(ex.service) in folded(got[1])
                for ex, got, _ in rows
                if ex.service and ex.thinking
            ]
        ),
    }
    loss = mean_answer_loss(network, tokenizer, examples)
    return FurtherScores(name, len(examples), loss, shares), answers


def probe(network: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> list[ProbeResult]:
    """Answer the hand-written prompts."""
    prompts = [
        chat_prompt(
            tokenizer, Example(({"role": "user", "content": item.prompt}, {}), item.language, "")
        )
        for item in PROBES
    ]
    results = []
    for item, answer in zip(PROBES, generate(network, tokenizer, prompts), strict=True):
        language = guess_language(answer.text)
        results.append(
            ProbeResult(item, answer, item.fits(answer.text), language in (None, item.language))
        )
    return results
