#!/usr/bin/env python3
"""Make Relais' demo model from nothing: data, tokenizer, training, held-out scores and model card.

python models/relais-demo/training/train.py                  # half an hour on 2 cores -> models/relais-demo
python models/relais-demo/training/train.py --base some/folder   # the second pass alone, from what the first one left
python models/relais-demo/training/train.py --eval-only      # measure the committed model again, print all answers
python models/relais-demo/training/train.py --max-steps 20 --out some/folder   # a quick try
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

# Nothing is fetched: a missing file must be an error, not a download.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from demo_model import card, dataset, evaluation, folder, network, tokenizer, training
from demo_model.examples import Example

DEFAULT_OUT = Path(__file__).resolve().parent.parent
EXAMPLES = 100_000
FURTHER_EXAMPLES = 50_000
TOKENIZER_SAMPLE = 30_000
HELD_OUT_TEMPLATES, HELD_OUT_COMBINATIONS = 500, 300
HELD_OUT_TOOLS, HELD_OUT_THINKING = 400, 200


def arguments(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        help="folder of the model (default: models/relais-demo)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of data, weights and order (default: 0)"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="threads; part of what makes a run reproducible (2)"
    )
    parser.add_argument(
        "--examples", type=int, default=EXAMPLES, help=f"training examples (default: {EXAMPLES})"
    )
    parser.add_argument(
        "--further-examples",
        type=int,
        default=FURTHER_EXAMPLES,
        help=f"of the second pass, with tools and thoughts (default: {FURTHER_EXAMPLES}; 0: no second pass)",
    )
    parser.add_argument(
        "--base",
        type=Path,
        help="folder with the first pass's model, which the first pass also leaves in --out",
    )
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--max-steps", type=int, help="train on the first steps of each pass only")
    limit.add_argument(
        "--minutes", type=float, help="fit each pass into this time (not reproducible)"
    )
    parser.add_argument(
        "--eval-only", action="store_true", help="measure the model in --out; train nothing"
    )
    parser.add_argument("--no-eval", action="store_true", help="leave out scores and card")
    return parser.parse_args(argv)


def say(line: str) -> None:
    """Show progress at once, also through a pipe."""
    print(line, flush=True)


def held_out_sets(seed: int) -> dict[str, list[Example]]:
    """The two sets that no training must see."""
    return {
        "templates": dataset.held_out("templates", seed, HELD_OUT_TEMPLATES),
        "combinations": dataset.held_out("combinations", seed, HELD_OUT_COMBINATIONS),
    }


def further_sets(seed: int) -> dict[str, list[Example]]:
    """The two sets of what the second pass teaches."""
    return {
        "tools": dataset.held_out("templates", seed, HELD_OUT_TOOLS, dataset.tool_recipes),
        "thinking": dataset.held_out(
            "templates", seed, HELD_OUT_THINKING, dataset.thinking_recipes
        ),
    }


def make_first(options: argparse.Namespace) -> None:
    """Generate, train and save: answers alone."""
    unseen = [example for examples in held_out_sets(options.seed).values() for example in examples]
    examples = dataset.training(options.seed, options.examples, unseen)
    sample = (
        message["content"]
        for example in examples[:TOKENIZER_SAMPLE]
        for message in example.messages
    )
    words = tokenizer.learn_tokenizer(sample, network.VOCABULARY, network.CONTEXT)
    model = network.create_network(words, options.seed)
    passed = train(options, model, words, examples)
    folder.save(model, words, options.out)
    card.save_facts(passed, options.out)


def make_second(options: argparse.Namespace) -> None:
    """Go on from the first pass's folder, with tools and thoughts, and save."""
    base = options.base or options.out
    first = card.load_first(base)
    # Read back, so that it makes no difference where it stopped between the two.
    model, words = folder.load(base)
    tokenizer.add_marks(words)
    network.add_tokens(model, words, options.seed)
    unseen = [
        example
        for sets in (held_out_sets(options.seed), further_sets(options.seed))
        for examples in sets.values()
        for example in examples
    ]
    examples = dataset.training(
        options.seed, options.further_examples, unseen, dataset.further_recipes
    )
    second = train(options, model, words, examples, is_second=True)
    network.blend(model, folder.load(base)[0])
    second = replace(second, weights_hash=network.weights_hash(model))
    say(f"weights with a share of the first pass's: {second.weights_hash}")
    facts = card.Facts(
        parameters=network.count_parameters(model),
        seed=options.seed,
        torch_version=torch.__version__,
        first=first,
        second=second,
    )
    folder.save(model, words, options.out)
    card.save_facts(facts, options.out)
    folder.open_to_all(options.out)


def train(
    options: argparse.Namespace,
    model: LlamaForCausalLM,
    words: PreTrainedTokenizerFast,
    examples: list[Example],
    *,
    is_second: bool = False,
) -> card.Pass:
    """Go over the examples once; returns what the card tells of it."""
    plan = training.batches(training.encode(examples, words), options.seed)[: options.max_steps]
    say(
        f"{len(examples):,} examples, {network.count_parameters(model):,} parameters, {len(plan):,} steps"
    )
    outcome = training.train(
        model,
        plan,
        int(words.pad_token_id),
        minutes=options.minutes,
        report=say,
        is_second=is_second,
    )
    fingerprint = network.weights_hash(model)
    say(f"trained in {outcome.seconds / 60:.1f} minutes; weights {fingerprint}")
    return card.Pass(
        examples=len(examples),
        steps=outcome.steps,
        tokens=outcome.tokens,
        seconds=round(outcome.seconds, 1),
        threads=options.threads,
        weights_hash=fingerprint,
        command=command_line(options),
    )


def command_line(options: argparse.Namespace) -> str:
    """The command that makes these weights again; the folders do not matter."""
    parts = [
        "python models/relais-demo/training/train.py",
        f"--seed {options.seed}",
        f"--threads {options.threads}",
    ]
    if options.base is not None:
        parts.append("--base FIRST")
    elif options.further_examples == 0:
        parts.append("--out FIRST")
    if options.examples != EXAMPLES:
        parts.append(f"--examples {options.examples}")
    if options.further_examples != FURTHER_EXAMPLES:
        parts.append(f"--further-examples {options.further_examples}")
    if options.max_steps is not None:
        parts.append(f"--max-steps {options.max_steps}")
    if options.minutes is not None:
        parts.append(f"--minutes {options.minutes}")
    return " ".join(parts)


def say_misses(examples: list[Example], answers: list[evaluation.Answer]) -> None:
    """Show the answers that are not the templates'."""
    for example, answer in zip(examples, answers, strict=True):
        if answer.text.strip() != example.answer:
            say(
                f"  [{example.task}] {example.prompt}\n    -> {answer.text!r}\n    instead of {example.answer!r}"
            )


def measure(options: argparse.Namespace) -> None:
    """Score the saved folder, not the weights in memory: what is measured is what is shipped."""
    model, words = folder.load(options.out)
    facts = card.load_facts(options.out)
    scores, further = [], []
    for name, examples in held_out_sets(facts.seed).items():
        result, answers = evaluation.score(model, words, name, examples, say)
        scores.append(result)
        say(str(result))
        if options.eval_only:
            say_misses(examples, answers)
    for name, examples in further_sets(facts.seed).items():
        told, answers = evaluation.score_further(model, words, name, examples, say)
        further.append(told)
        say(str(told))
        if options.eval_only:
            say_misses(examples, answers)
    probes = evaluation.probe(model, words)
    for found in probes:
        say(
            f"{'fits  ' if found.fits else 'MISSES'} {found.probe.prompt}\n       -> {found.answer.text!r}"
        )
    say(f"{sum(found.fits for found in probes)} of {len(probes)} hand-written prompts fit")
    text = card.model_card(facts, scores, further, probes, folder.size_bytes(options.out))
    (options.out / "README.md").write_text(text, encoding="utf-8")
    folder.open_to_all(options.out)


def main(argv: list[str]) -> None:
    """Run the command line."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    if not options.eval_only:
        if options.base is None:
            make_first(options)
        if options.further_examples:
            make_second(options)
    if options.further_examples and not options.no_eval:
        measure(options)
    say(f"{options.out}: {folder.size_bytes(options.out) / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
