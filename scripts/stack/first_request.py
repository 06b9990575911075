"""A first request of each kind over the API, and what came of it, for a person to see."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from stack.api import message_of, post
from stack.errors import StackError
from stack.model import Program, Run
from stack.progress import emit

# A citizen's remark on a public service, as the demo model was trained to answer.
DEMO_PROMPT = "Bonjour, le temps d'attente à la mairie est beaucoup trop long."
OTHER_PROMPT = "In one sentence, what is a queue?"

# English, as the default model reads.
SENTENCE = "We waited far too long at the town hall."
OTHERS = ("The queue at the town hall was far too long.", "Cats sleep for most of the day.")


def ask(run: Run, api: Program, *, demo: bool) -> None:
    """Stream the answer to standard output. Raises `StackError` where there is none."""
    prompt = DEMO_PROMPT if demo else OTHER_PROMPT
    emit(f"\n  > {prompt}\n  ")
    started = time.monotonic()
    first_s: float | None = None
    try:
        for text in _stream(run, api, prompt):
            if first_s is None:
                first_s = time.monotonic() - started
            emit(text.replace("\n", "\n  "))
    finally:
        emit("\n")
    if first_s is None:
        raise StackError("the first request got an empty answer")
    emit(f"  (first token after {first_s:.2f} s, all after {time.monotonic() - started:.2f} s)\n\n")


def _stream(run: Run, api: Program, prompt: str) -> Iterator[str]:
    body = {
        "model": run.model,
        "stream": True,
        "max_tokens": 96,
        "temperature": 0,
        "messages": [{"role": "user", "content": prompt}],
    }
    with post(api, "/v1/chat/completions", body) as response:
        for line in response:
            if not line.startswith(b"data:"):
                continue
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            chunk = json.loads(data)
            if "error" in chunk:
                raise StackError(f"the first request failed: {message_of(data)}")
            for choice in chunk.get("choices", []):
                yield choice.get("delta", {}).get("content") or ""
    raise StackError("the first request's answer was cut short")


def compare(run: Run, api: Program) -> None:
    """Scores of two sentences by a third: cosines of vectors, or those of a reranker; or the classes of both."""
    started = time.monotonic()
    classifies = run.embedding_setting == "CLASSIFY_MODELS"
    asked: dict[str, object] = {"text_1": SENTENCE, "text_2": OTHERS}
    if classifies:
        asked = {"input": OTHERS}
    path = "/v1/classify" if classifies else "/v1/score"
    with post(api, path, {"model": run.embedding_model, **asked}) as response:
        answer = json.load(response)
    took_s = time.monotonic() - started
    if not classifies:
        emit(f"  > {SENTENCE}\n")
    for text, one in zip(OTHERS, answer["data"], strict=True):
        said = one["label"] if classifies else f"{one['score']:5.2f}"
        emit(f"  {said}  {text}\n")
    emit(f"  (scores: {answer.get('score_type', 'classes')}, after {took_s:.2f} s)\n\n")
