"""Training: answers only, batches of like length, Muon for the matrices and AdamW for the rest."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from demo_model.examples import Example

TOKENS_PER_BATCH = 6144
MUON_RATE, ADAM_RATE = 0.02, 4e-3
WARM_UP_STEPS = 40


@dataclass(frozen=True)
class Encoded:
    """One example as token ids; the loss is taken from ``start`` on."""

    ids: list[int]
    start: int


@dataclass(frozen=True)
class Outcome:
    """What a training run did."""

    steps: int
    seconds: float
    tokens: int
    last_loss: float


def encode(examples: list[Example], tokenizer: PreTrainedTokenizerFast) -> list[Encoded]:
    """Turn examples into ids with the chat template itself, so that training and serving see the same prompt."""
    prompts = [
        str(
            tokenizer.apply_chat_template(
                list(ex.messages[:-1]), tokenize=False, add_generation_prompt=True
            )
        )
        for ex in examples
    ]
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
    """Mean loss over the answers' tokens. Padding stands right, where causal attention cannot see it."""
    width = max(len(item.ids) for item in batch)
    ids = torch.tensor([item.ids + [pad] * (width - len(item.ids)) for item in batch])
    spans = torch.tensor([[item.start, len(item.ids)] for item in batch])
    places = torch.arange(1, width)
    wanted = (places >= spans[:, :1]) & (places < spans[:, 1:])
    hidden = network.model(input_ids=ids, use_cache=False).last_hidden_state
    # The output layer is a third of the work: only the places that count go through it.
    logits = network.lm_head(hidden[:, :-1][wanted])
    return functional.cross_entropy(logits, ids[:, 1:][wanted])


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
) -> Outcome:
    """Go once through the plan. The rate falls with the share done: of steps, or of time where time is the limit."""
    optimizers = create_optimizers(network)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
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
        loss = answer_loss(network, batch, pad)
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
