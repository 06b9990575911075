"""Run many prompts as one batch, with OpenAI's client. One file, needs openai: copy it.

From a shell: `.venv/bin/python examples/batch.py --url http://localhost:8080/v1 "Bonjour" "How long is the wait?"`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Final

from openai import OpenAI
from openai.types import Batch

ENDPOINT: Final = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


def submit(client: OpenAI, model: str, prompts: Sequence[str], *, max_tokens: int = 256) -> Batch:
    """Upload one request per prompt, and create the batch. A prompt's place is its `custom_id`."""
    requests = [
        {
            "custom_id": str(place),
            "method": "POST",
            "url": ENDPOINT,
            "body": {
                "model": model,
                "messages": [{"role": "user", "content": prompt}],
                "max_completion_tokens": max_tokens,
            },
        }
        for place, prompt in enumerate(prompts)
    ]
    content = "\n".join(map(json.dumps, requests)).encode()
    file = client.files.create(file=("prompts.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")


def wait(client: OpenAI, batch: Batch, *, every_s: float = 2.0) -> Batch:
    """Wait for the batch's end, and say how far it is."""
    while batch.status not in ENDED:
        counts = batch.request_counts
        if counts is not None:
            print(f"{batch.status}: {counts.completed}/{counts.total}", file=sys.stderr)
        time.sleep(every_s)
        batch = client.batches.retrieve(batch.id)
    return batch


def answers(client: OpenAI, batch: Batch) -> dict[int, str]:
    """Return each prompt's answer, or why it has none, by the prompt's place."""
    found: dict[int, str] = {}
    for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
        for line in client.files.content(file_id).iter_lines():
            one = json.loads(line)
            response = one["response"]
            if response is None:
                text = f"not run: {one['error']['message']}"
            elif response["status_code"] == 200:
                text = response["body"]["choices"][0]["message"]["content"]
            else:
                text = f"failed: {response['body']['error']['message']}"
            found[int(one["custom_id"])] = text
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Run prompts as one batch.")
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--url", default="http://localhost:8080/v1")
    parser.add_argument("--model", default="relais-demo")
    wanted = parser.parse_args()
    client = OpenAI(base_url=wanted.url, api_key=os.environ.get("RELAIS_API_KEY", "any"))
    batch = wait(client, submit(client, wanted.model, wanted.prompts))
    for error in (batch.errors.data or []) if batch.errors else []:
        print(f"line {error.line}: {error.message}", file=sys.stderr)
    for place, text in sorted(answers(client, batch).items()):
        print(f"{wanted.prompts[place]}\n    {text}")
    return 0 if batch.status == "completed" else 1


if __name__ == "__main__":
    sys.exit(main())
