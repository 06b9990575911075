"""The official client gets the same shapes from Relais as from `vllm serve`, but for what the documentation names."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from openai_compat import CALLS, differences, shapes
from relais_testing.process_stack import MODEL, VLLM_ON_CPU, make_starter, make_vllm_starter
from relais_testing.valkey import ValkeyServer

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
ROW = re.compile(r"^\| `(?P<line>[^`]+)` \| (?P<who>Relais|vLLM) \|", re.MULTILINE)
# As Relais's worker has it: with the default, JSON of a small model does not end, nor do calls that are demanded.
GUIDANCE = json.dumps(
    {"backend": "guidance", "disable_any_whitespace": True, "disable_additional_properties": True}
)


def test_what_differs_from_vllm_serve_is_what_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "logs").mkdir()
    # No stall of the machine ends a request.
    patient = {"WATCH_LEASE_S": "60"}
    with ValkeyServer(tmp_path / "redis") as redis, ExitStack() as processes:
        start = make_starter(processes, redis, tmp_path / "logs")
        server = make_vllm_starter(processes, tmp_path / "logs")(
            *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
            *("--reasoning-parser", VLLM_ON_CPU["VLLM_REASONING_PARSER"]),
            *("--structured-outputs-config", GUIDANCE),
            wait=False,
            VLLM_ENFORCE_STRICT_TOOL_CALLING="0",
        )
        start("llm_worker", **VLLM_ON_CPU, **patient)
        front = start("orchestrator", **patient)
        server.wait_ready()
        here = shapes(front.url, MODEL, "any")
        there = shapes(server.url, MODEL, "any")
    found = differences(here, there)
    signs = {"Relais": "-", "vLLM": "+"}
    documented = {f"{signs[row['who']]} {row['line']}" for row in ROW.finditer(PAGE.read_text())}
    assert found.keys() == documented, found


def test_there_are_as_many_calls_as_the_page_says() -> None:
    assert len(CALLS) == 68
