"""Groups tests that must run in one process, one after another (`pytest -n`), and says which begin."""

from __future__ import annotations

import re

# What imports vLLM or torch, or forks what has: so that few processes of a run do.
_TOGETHER = {
    "models in the test's process": re.compile(
        r"/e2e/test_(embeddings\w*|encoder|engine_args|forced_tokens|trials|vllm_chats|vllm_contract)\."
    ),
    "models of servers": re.compile(
        r"/e2e/test_(clients|lora|openai_compat|serve_benchmark|vllm\w*)\.|::test_a_vllm_worker_"
    ),
    "models of servers that die": re.compile(r"/faults/test_(remote_vllm|vllm_\w+)\."),
}
# Many small tests, with fixtures for the whole file.
_BY_FILE = re.compile(
    r"tests/(unit|docs|infra|integration/kpi)/|/integration/test_traces\.|/e2e/test_bootstrap\."
)
_LONG = re.compile(r"/(e2e|faults)/")


def scope_of(node_id: str) -> str:
    """Return the same name for tests that belong together."""
    for name, pattern in _TOGETHER.items():
        if pattern.search(node_id):
            return name
    return node_id.partition("::")[0] if _BY_FILE.search(node_id) else node_id


def turn_of(node_id: str) -> int:
    """By this number the longest begin, so that the short ones fill the end."""
    names = [*_TOGETHER]
    scope = scope_of(node_id)
    if scope in names:
        return names.index(scope)
    return len(names) + (0 if _LONG.search(node_id) else 1)
