"""Which tests run in one process, one after another, where a run has several (`pytest -n`)."""

from __future__ import annotations

import re

# What shares something that is slow to make. A model takes a core to load and more than a gigabyte, so those that load
# vLLM share few processes whether they share it or not.
_TOGETHER = {
    "vllm e2e": re.compile(
        r"/e2e/test_(vllm|vllm_contract|openai_compat|serve_benchmark)\.|::test_a_vllm_worker_|::test_real_models_"
    ),
    "vllm faults": re.compile(r"/faults/test_(remote_vllm|vllm_continuation)\."),
    "clients": re.compile(r"/e2e/test_clients\."),
    "encoders": re.compile(r"/e2e/test_(embeddings|encoder)\."),
}
# Many small tests, with fixtures for the whole file.
_BY_FILE = re.compile(r"tests/(unit|docs|infra|integration/kpi)/|/integration/test_traces\.")


def scope_of(node_id: str) -> str:
    """A name that is the same for tests that belong together."""
    for name, pattern in _TOGETHER.items():
        if pattern.search(node_id):
            return name
    return node_id.partition("::")[0] if _BY_FILE.search(node_id) else node_id
