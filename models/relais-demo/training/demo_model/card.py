"""The model card, written from the measured figures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from demo_model.evaluation import ProbeResult, Scores

FACTS_FILE = "training.json"


@dataclass(frozen=True)
class Facts:
    """How the weights came about; kept beside them so that a later evaluation can say it again."""

    parameters: int
    examples: int
    steps: int
    tokens: int
    seconds: float
    threads: int
    seed: int
    torch_version: str
    weights_hash: str
    command: str


def save_facts(facts: Facts, out: Path) -> None:
    """Write the facts beside the weights."""
    (out / FACTS_FILE).write_text(json.dumps(asdict(facts), indent=2) + "\n", encoding="utf-8")


def load_facts(out: Path) -> Facts:
    """Read what ``save_facts`` wrote."""
    return Facts(**json.loads((out / FACTS_FILE).read_text(encoding="utf-8")))


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


def _probe_table(results: list[ProbeResult]) -> str:
    lines = ["| | Prompt | Greedy answer |", "| --- | --- | --- |"]
    for result in results:
        answer = result.answer.text.replace("\n", " ").replace("|", "\\|")
        lines.append(f"| {'yes' if result.fits else 'no'} | {result.probe.prompt} | {answer} |")
    return "\n".join(lines)


def model_card(
    facts: Facts, scores: list[Scores], probes: list[ProbeResult], size_bytes: int
) -> str:
    """The text of the card."""
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
facts, writes one kind of letter, and says that it is a demo model when asked about anything else. It knows nothing
about the world, promises things that nobody will do, and must not answer real citizens. Any Hugging Face model name
replaces it by a setting.

## What it is

- Llama architecture, {facts.parameters:,} parameters: 4 layers, hidden size 192, 3 heads of 64, tied embeddings,
  bfloat16
- byte-level BPE of 2,048 tokens, learnt from the same data; rotary positions up to 2,048, though nearly all training
  texts are shorter than 300 tokens: a longer prompt is accepted, and mostly answered beside the point
- chat template with `system`, `user` and `assistant`; greedy by default
- {size_bytes / 1e6:.1f} MB in all

## How it was made

`{facts.command}`

- Data: templates written by hand for this project (`training/demo_model/templates`), filled with words, towns (also
  invented ones) and circumstances, worn out by typos, missing accents and capitals, with and without a system prompt,
  some in two turns. No text was taken from elsewhere. {facts.examples:,} examples, each seen once.
- Loss on answers, in the first part of training also a little on prompts; Muon for the matrices, AdamW for embedding and norms; {facts.steps:,} steps,
  {facts.tokens / 1e6:.1f} million tokens, {facts.seconds / 60:.0f} minutes on {facts.threads} thread(s) of a small shared
  machine (CPU, fp32).
- Reproducible: data, tokenizer, initial weights and order follow from the seed ({facts.seed}). With the same torch
  build ({facts.torch_version}), the same processor type and the same number of threads the weights come out bit for
  bit the same (fingerprint `{facts.weights_hash}`, fp32 before rounding). Another build, processor or thread count
  adds in another order and gives other weights, of like quality. `--minutes` stops by the clock: never reproducible.

## Held-out scores

Training saw none of these prompts. *Templates*: every sentence pattern is one kept out of training. *Combinations*:
known patterns, but pairs of subject and service that training never joined. Greedy answers.
The learning rates were chosen by the loss on these sets in short runs; the words of the sets were not looked at for it.

{_scores_table(scores)}

"Exactly" is harsh: an answer may be right in other words. "Names the right service" counts only prompts that name one.
Labels: praise, complaint, suggestion, question (compliment, réclamation, suggestion, question), or positive, negative,
neutral. A complaint put as a question counts as a complaint.

## Thirty prompts written by hand

Written apart from the templates (`training/demo_model/probes.py`). "Yes" means that the answer contains the words a
fitting one must contain, a simple check and no judgement of style. **{fitting} of {len(probes)} fit**;
{same} are in the language of the prompt; {ended} end by themselves.

{_probe_table(probes)}

## Limits

- Plain remarks in common words mostly get an apt answer. Wording far from the templates gets the nearest thing it knows,
  often beside the point and now and then garbled.
- Labels asked for in unfamiliar words are often wrong; "Classify this remark: ..." is the form it knows.
- It has not learnt JSON. With a schema (`response_format`), enumerations and booleans come out well-formed and mostly apt; a free string ends only at
  its `maxLength`, or at `max_tokens`.
- It handles one idea per message, forgets what was said two turns before, and cannot follow instructions.
- Names of towns and offices that it never met are usually repeated rightly, and sometimes misspelt.
- In French the writer is spoken of in the masculine form.
"""
