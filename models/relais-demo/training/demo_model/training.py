"""Training: mostly on answers, in batches of like length; Muon for the matrices, AdamW for the rest."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from demo_model.examples import Example

TOKENS_PER_BATCH = 4096
# A label is two or three tokens among hundreds: unweighted it would hardly be learnt.
FULL_ANSWER_TOKENS = 16
# At first the prompts are learnt too: words that stand in like places come to mean alike. Later the answers alone.
PROMPT_WEIGHT, PROMPT_UNTIL = 0.3, 0.6
MUON_RATE, ADAM_RATE = 0.02, 0.02
WARM_UP_STEPS = 40
# Of the first pass's rate: enough to learn what is new, and little enough to keep what is old.
SECOND_RATE = 0.25


@dataclass(frozen=True)
class Encoded:
    """One example as token ids; its answer begins at ``start``."""

    ids: list[int]
    start: int


@dataclass(frozen=True)
class Outcome:
    """What a training run did."""

    steps: int
    seconds: float
    tokens: int
    last_loss: float


def prompt_text(example: Example, tokenizer: PreTrainedTokenizerFast) -> str:
    """All that stands before the answer, as a server would send it."""
    text = tokenizer.apply_chat_template(
        list(example.messages[:-1]),
        tools=list(example.tools) or None,
        enable_thinking=example.thinking,
        tokenize=False,
        add_generation_prompt=True,
    )
    return str(text)


def encode(examples: list[Example], tokenizer: PreTrainedTokenizerFast) -> list[Encoded]:
    """Turn examples into ids with the chat template itself, so that training and serving see the same prompt."""
    prompts = [prompt_text(ex, tokenizer) for ex in examples]
    heads = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    tails = tokenizer(
        [ex.answer + str(tokenizer.eos_token) for ex in examples], add_special_tokens=False
    )["input_ids"]
    return [
        Encoded(list(head) + list(tail), len(head)) for head, tail in zip(heads, tails, strict=True)
    ]


def batches(encoded: list[Encoded], seed: int) -> list[list[Encoded]]:
    """One pass over the data: batches of examples of like length, in a seeded order."""
    rng = random.Random(f"order-{seed}")
    order = sorted(encoded, key=lambda item: (len(item.ids), rng.random()))
    made: list[list[Encoded]] = []
    current: list[Encoded] = []
    for item in order:
        # Sorted by length: the newcomer is the longest, so it sets the width of the batch.
        if current and (len(current) + 1) * len(item.ids) > TOKENS_PER_BATCH:
            made.append(current)
            current = []
        current.append(item)
    made.append(current)
    rng.shuffle(made)
    return made


def answer_loss(network: LlamaForCausalLM, batch: list[Encoded], pad: int) -> torch.Tensor:
    """Mean loss over the answers' tokens."""
    ids, spans = _padded(batch, pad)
    places = torch.arange(1, ids.shape[1])
    wanted = (places >= spans[:, :1]) & (places < spans[:, 1:])
    return _losses(network, ids, wanted).mean()


def training_loss(
    network: LlamaForCausalLM, batch: list[Encoded], pad: int, prompt_weight: float
) -> torch.Tensor:
    """Weighted loss: short answers count more by token, prompts count by the weight given."""
    ids, spans = _padded(batch, pad)
    places = torch.arange(1, ids.shape[1])
    answers = (places >= spans[:, :1]) & (places < spans[:, 1:])
    wanted = answers if prompt_weight == 0 else places < spans[:, 1:]
    lengths = spans[:, 1:] - spans[:, :1]
    weights = (FULL_ANSWER_TOKENS / lengths).clamp(min=1.0).expand(answers.shape)
    weights = torch.where(answers, weights, prompt_weight)[wanted]
    # Divided by the answers' weights alone, so that the prompts come on top and do not thin them out.
    total = (_losses(network, ids, wanted) * weights).sum()
    return total / torch.where(answers[wanted], weights, 0.0).sum()


def _padded(batch: list[Encoded], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids padded on the right, where causal attention cannot see it, and each answer's span."""
    width = max(len(item.ids) for item in batch)
    ids = torch.tensor([item.ids + [pad] * (width - len(item.ids)) for item in batch])
    spans = torch.tensor([[item.start, len(item.ids)] for item in batch])
    return ids, spans


def _losses(network: LlamaForCausalLM, ids: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Loss of each wanted token, given what stands before it."""
    hidden = network.model(input_ids=ids, use_cache=False).last_hidden_state
    # The output layer is a third of the work: only the places that count go through it.
    logits = network.lm_head(hidden[:, :-1][wanted])
    return functional.cross_entropy(logits, ids[:, 1:][wanted], reduction="none")


def create_optimizers(network: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers learns faster per step; AdamW for embedding and norms."""
    matrices = [
        weight
        for name, weight in network.named_parameters()
        if weight.ndim == 2 and "embed" not in name
    ]
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in network.parameters() if id(weight) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(
    network: LlamaForCausalLM,
    plan: list[list[Encoded]],
    pad: int,
    *,
    minutes: float | None,
    report: Callable[[str], None],
    is_second: bool = False,
) -> Outcome:
    """Go once through the plan. The rate falls with the share done: of steps, or of time where time is the limit."""
    optimizers = create_optimizers(network)
    factor_of_pass, prompt_weight = (SECOND_RATE, 0.0) if is_second else (1.0, PROMPT_WEIGHT)
    rates = [factor_of_pass * optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    network.train()
    began = last_report = time.monotonic()
    tokens, shown = 0, 0.0
    step = 0
    for step, batch in enumerate(plan, start=1):
        done = step / len(plan)
        if minutes is not None:
            done = max(done, (time.monotonic() - began) / (60 * minutes))
        if done > 1:
            break
        factor = min(step / WARM_UP_STEPS, 1.0, (1.0 - done) / 0.7 + 0.01)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=True)
        loss = training_loss(network, batch, pad, prompt_weight * max(0.0, 1 - done / PROMPT_UNTIL))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        tokens += sum(len(item.ids) for item in batch)
        value = loss.item()
        shown = value if step == 1 else 0.95 * shown + 0.05 * value
        if time.monotonic() - last_report > 15 or step == len(plan):
            last_report = time.monotonic()
            spent = last_report - began
            report(
                f"step {step}/{len(plan)}  loss {shown:.3f}  {tokens / spent:,.0f} tokens/s  {spent:.0f} s"
            )
    network.eval()
    return Outcome(step, time.monotonic() - began, tokens, shown)
