"""The model card, written from the measured figures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from demo_model.evaluation import FurtherScores, ProbeResult, Scores

FACTS_FILE = "training.json"


@dataclass(frozen=True)
class Pass:
    """One pass over generated examples."""

    examples: int
    steps: int
    tokens: int
    seconds: float
    threads: int
    weights_hash: str
    command: str


@dataclass(frozen=True)
class Facts:
    """How the weights came about; kept beside them so that a later evaluation can say it again."""

    parameters: int
    seed: int
    torch_version: str
    first: Pass
    second: Pass


def save_facts(facts: Facts | Pass, out: Path) -> None:
    """Write the facts beside the weights."""
    (out / FACTS_FILE).write_text(json.dumps(asdict(facts), indent=2) + "\n", encoding="utf-8")


def load_facts(out: Path) -> Facts:
    """Read what ``save_facts`` wrote after both passes."""
    read = json.loads((out / FACTS_FILE).read_text(encoding="utf-8"))
    return Facts(**read | {name: Pass(**read[name]) for name in ("first", "second")})


def load_first(out: Path) -> Pass:
    """Read what ``save_facts`` wrote after the first pass."""
    read = json.loads((out / FACTS_FILE).read_text(encoding="utf-8"))
    return Pass(**{field.name: read[field.name] for field in fields(Pass)})


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _scores_table(scores: list[Scores]) -> str:
    rows = [("", *(f"{item.name} ({item.size})" for item in scores))]
    rows.append(("---", *("---:" for _ in scores)))
    rows.append(("answer loss (nats per token)", *(f"{item.answer_loss:.3f}" for item in scores)))
    rows.append(
        ("answer exactly as the template has it", *(_percent(item.exact) for item in scores))
    )
    rows.append(("right label", *(_percent(item.labels) for item in scores)))
    rows.append(("names the right service", *(_percent(item.services) for item in scores)))
    rows.append(("same language as the prompt", *(_percent(item.languages) for item in scores)))
    rows.append(("ends by itself", *(_percent(item.ended) for item in scores)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _further_table(scores: list[FurtherScores]) -> str:
    rows = [("", *(f"{item.name} ({item.size})" for item in scores))]
    rows.append(("---", *("---:" for _ in scores)))
    rows.append(("answer loss (nats per token)", *(f"{item.answer_loss:.3f}" for item in scores)))
    rows += [(name, *(_percent(item.shares[name]) for item in scores)) for name in scores[0].shares]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _probe_table(results: list[ProbeResult]) -> str:
    lines = ["| | Prompt | Greedy answer |", "| --- | --- | --- |"]
    for result in results:
        answer = result.answer.text.replace("\n", " ").replace("|", "\\|")
        lines.append(f"| {'yes' if result.fits else 'no'} | {result.probe.prompt} | {answer} |")
    return "\n".join(lines)


def model_card(
    facts: Facts,
    scores: list[Scores],
    further: list[FurtherScores],
    probes: list[ProbeResult],
    size_bytes: int,
) -> str:
    """The text of the card."""
    first, second = facts.first, facts.second
    fitting = sum(result.fits for result in probes)
    same = sum(result.same_language for result in probes)
    ended = sum(result.answer.ended for result in probes)
    return f"""---
language: [fr, en]
library_name: transformers
pipeline_tag: text-generation
---

# relais-demo

The embedded default model of Relais: a very small language model that lets the whole stack run, stream and be tested
with no download and no GPU. It was made from nothing by the Relais project, from data it generated. **It is a toy.**
It answers short remarks about public services in French and English, greets, classifies a remark, knows a few fixed
facts, writes one kind of letter, calls three kinds of tools where they are offered, thinks aloud for a sentence where
asked to, and says that it is a demo model when asked about anything else. It knows nothing about
the world, promises things that nobody will do, and must not answer real citizens. Any Hugging Face model name replaces
it by a setting.

## What it is

- Llama architecture, {facts.parameters:,} parameters: 4 layers, hidden size 192, 3 heads of 64, tied embeddings,
  bfloat16
- byte-level BPE of 2,048 tokens, learnt from the same data, and four marks; rotary positions up to 2,048, though nearly
  all training texts are shorter than 300 tokens: a longer prompt is accepted, and mostly answered beside the point
- chat template with `system`, `user`, `assistant`, tools, `tool` and `enable_thinking`; greedy by default
- tool calls in the form of vLLM's parser `hermes`; thoughts between `<think>` and `</think>` where
  `chat_template_kwargs.enable_thinking` is true, as vLLM's parser `deepseek_v3` reads them
- {size_bytes / 1e6:.1f} MB in all

## How it was made

{" and then ".join(f"`{command}`" for command in dict.fromkeys((first.command, second.command)))}

- Data: templates written by hand for this project (`training/demo_model/templates`), filled with words, towns (also
  invented ones) and circumstances, worn out by typos, missing accents and capitals, with and without a system prompt,
  some in two turns. No text was taken from elsewhere.
- Two passes, each example seen once: {first.examples:,} without tools and thoughts, then {second.examples:,}, half of them of the
  same kinds, the others with tools or with thoughts, at a quarter of the learning rate. The result has a tenth of the first pass's
  weights in it.
- Loss on answers, in the first part of the first pass also a little on prompts; Muon for the matrices, AdamW for embedding and norms;
  {first.steps:,} and {second.steps:,} steps, {first.tokens / 1e6:.1f} and {second.tokens / 1e6:.1f} million tokens, {first.seconds / 60:.0f} and {second.seconds / 60:.0f} minutes on {first.threads} and {second.threads} thread(s)
  of a small shared machine (CPU, fp32).
- Reproducible: data, tokenizer, initial weights and order follow from the seed ({facts.seed}). With the same torch
  build ({facts.torch_version}), the same processor type and the same number of threads the weights come out bit for
  bit the same (fingerprints `{first.weights_hash}` and `{second.weights_hash}`, fp32 before rounding; the second pass begins with the
  rounded weights of the first, `--base`). Another build, processor or thread count adds in another order and gives
  other weights, of like quality. `--minutes` stops by the clock: never reproducible.

## Held-out scores

Training saw none of these prompts. *Templates*: every sentence pattern is one kept out of training. *Combinations*:
known patterns, but pairs of subject and service that training never joined. Greedy answers.
The learning rates and that tenth were chosen by the loss on these sets in short runs; the words of the sets were not looked at for it.

{_scores_table(scores)}

"Exactly" is harsh: an answer may be right in other words. "Names the right service" counts only prompts that name one.
Labels: praise, complaint, suggestion, question (compliment, réclamation, suggestion, question), or positive, negative,
neutral. A complaint put as a question counts as a complaint.

*Tools*: one or two questions in a message, other tools beside those needed, sometimes a thought; each example is one step (a call, or
the answer after the results), with the steps before it as they should be. *Thinking*: remarks and small talk. The sentence
patterns are ones kept out of training; the tools and most towns are known ones.

{_further_table(further)}

## Thirty prompts written by hand

Written apart from the templates (`training/demo_model/probes.py`). "Yes" means that the answer contains the words a
fitting one must contain, a simple check and no judgement of style. **{fitting} of {len(probes)} fit**;
{same} are in the language of the prompt; {ended} end by themselves.

{_probe_table(probes)}

## Limits

- Plain remarks in common words mostly get an apt answer. Wording far from the templates gets the nearest thing it knows,
  often beside the point and now and then garbled.
- Labels asked for in unfamiliar words are often wrong; "Classify this remark: ..." is the form it knows.
- The tools that it has learnt give opening hours, the state of a request by its number, and a sum (`training/demo_model/agents.py` has
  their names and parameters). Others it calls by chance, and their schemas it does not see.
- Of JSON it has learnt such calls alone. With a schema (`response_format`), enumerations and booleans come out well-formed, and apt less often
  than the same question without one: labels lean to praise. A free string ends only at its `maxLength`, or at `max_tokens`.
- It handles one idea per message, forgets what was said two turns before, and cannot follow instructions.
- Names of towns and offices that it never met are usually repeated rightly, and sometimes misspelt.
- In French the writer is spoken of in the masculine form.
"""
