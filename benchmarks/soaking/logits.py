"""How near two answers of the demo model were to each other where they part."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from benchmarks.soaking.asks import Ask
from relais_testing.process_stack import DEMO_MODEL


def explain(ask: Ask, one: Sequence[int], other: Sequence[int]) -> str:
    """Where the token ids first differ, and the logit gap there: computed whole, in fp32, with no cache."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    if same in (len(one), len(other)):
        return f"{len(one)} and {len(other)} tokens, the same up to the shorter one's end"
    logits = _logits(ask, one[:same])
    gap = logits[one[same]] - logits[other[same]]
    first, second = sorted(logits, reverse=True)[:2]
    return (
        f"at token {same + 1}, {one[same]} and {other[same]}: logits differ by {gap:.6f};"
        f" the best two by {first - second:.6f}"
    )


def _logits(ask: Ask, token_ids: Sequence[int]) -> list[float]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        ask.body["messages"], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    with torch.inference_mode():
        output = model(torch.tensor([[*prompt, *token_ids]]))
    values: list[float] = output.logits[0, -1].tolist()
    return values
