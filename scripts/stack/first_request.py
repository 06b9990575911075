"""One request over the API, its answer printed as it comes."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator

from stack.errors import StackError
from stack.model import Program, Run
from stack.probes import reachable
from stack.progress import emit

# A citizen's remark on a public service, as the demo model was trained to answer.
DEMO_PROMPT = "Bonjour, le temps d'attente à la mairie est beaucoup trop long."
OTHER_PROMPT = "In one sentence, what is a queue?"
_TIMEOUT_S = 180.0


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
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise StackError(
            f"the first request got no answer: {str(error) or type(error).__name__}"
        ) from error
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
    headers = {
        "Content-Type": "application/json",
        # ENV=dev takes any key; elsewhere one of API_KEYS is wanted.
        "Authorization": f"Bearer {os.environ.get('RELAIS_API_KEY') or 'bootstrap'}",
    }
    connection = http.client.HTTPConnection(reachable(api.host), api.port, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status == 401:
            raise StackError(
                "the API wants a key for the first request: set RELAIS_API_KEY to one of API_KEYS"
            )
        if response.status != 200:
            raise StackError(
                f"the first request was refused: {_message(response.read(65536)) or response.status}"
            )
        for line in response:
            if not line.startswith(b"data:"):
                continue
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            chunk = json.loads(data)
            if "error" in chunk:
                raise StackError(f"the first request failed: {_message(data)}")
            for choice in chunk.get("choices", []):
                yield choice.get("delta", {}).get("content") or ""
    finally:
        connection.close()
    raise StackError("the first request's answer was cut short")


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return body.decode(errors="replace").strip()[:200]
