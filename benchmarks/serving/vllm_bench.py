"""`vllm bench serve` as the client.

Over `/v1/completions`: of a chat it would time the first chunk, which has no text, and which Relais sends when the
engine has accepted the prompt.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import orjson

from benchmarks.serving.engine import Environment, run_vllm
from benchmarks.serving.report import Measured

INPUT_TOKENS = 40


async def measure(
    url: str, environment: Environment, *, clients: int, requests: int, tokens: int, seed: int
) -> Measured:
    """One run of it; CPU times are left out, since they would hold its start. RuntimeError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "backend": "openai",
            "endpoint": "/v1/completions",
            "base-url": url,
            "model": environment["VLLM_HF_REPO_ID"],
            "served-model-name": environment["SERVED_MODEL_NAME"],
            "dataset-name": "random",
            "random-input-len": INPUT_TOKENS,
            "random-output-len": tokens,
            "num-prompts": clients * requests,
            "max-concurrency": clients,
            "num-warmups": clients,
            "temperature": 0,
            "seed": seed,
            "result-dir": folder,
            "result-filename": "result.json",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        printed = await run_vllm(
            [
                *("relais_testing.vllm_command", "bench", "serve", *arguments),
                *("--ignore-eos", "--save-result", "--save-detailed", "--disable-tqdm"),
            ],
            environment,
        )
        path = Path(folder) / "result.json"
        if not path.exists():
            raise RuntimeError(f"vllm bench serve:\n{printed[-4000:]}")
        told = orjson.loads(path.read_bytes())
    if told["failed"] or set(told["output_lens"]) != {tokens}:
        raise RuntimeError(f"vllm bench serve: {told['failed']} failed, {told['output_lens']}")
    gaps = told["itls"]
    return Measured(
        tokens=told["total_output_tokens"],
        elapsed_s=told["duration"],
        first_s=tuple(told["ttfts"]),
        gaps_s=tuple(gap for one in gaps for gap in one),
        per_token_s=tuple(sum(one) / (tokens - 1) for one in gaps),
        cpu_us={},
        client_busy=0.0,
        texts={str(number): text for number, text in enumerate(told["generated_texts"])},
    )
