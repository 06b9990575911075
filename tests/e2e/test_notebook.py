"""examples/demo.ipynb runs from top to bottom against a live stack, and shows what it says."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relais_testing.mongo import MongoServer
from relais_testing.process_stack import DETERMINISTIC, MODEL, ROOT, Starter
from relais_testing.processes import ServiceProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NOTEBOOK = ROOT / "examples" / "demo.ipynb"
VECTORS = "words"
EXECUTE = "from nbclient.cli import main; main()"


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[MongoServer]:
    (tmp_path / "mongo").mkdir()
    with MongoServer(tmp_path / "mongo") as server:
        yield server


@pytest.fixture
def front(start: Starter, mongo: MongoServer) -> ServiceProcess:
    # Vectors and words come from hashes: sentences of the same words are near each other, which is all that is asked.
    start("llm_worker", **DETERMINISTIC, DETERMINISTIC_TOKENS_PER_S="200")
    start(
        "embedding_worker",
        EMBEDDING_ENGINE="deterministic",
        EMBEDDING_SERVED_NAME=VECTORS,
    )
    return start("orchestrator", EMBEDDING_MODELS=VECTORS, MONGODB_URL=mongo.url)


def printed(notebook: dict[str, Any]) -> str:
    return "".join(
        "".join(output.get("text", []))
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
    )


async def test_every_cell_runs_and_shows_what_it_says(
    front: ServiceProcess, mongo: MongoServer, tmp_path: Path
) -> None:
    own = {
        name: str(tmp_path / name.lower())
        for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "MPLCONFIGDIR")
    }
    executed = tmp_path / "executed.ipynb"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", EXECUTE, str(NOTEBOOK), "--output", str(executed)),
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("API_")},
            **own,
            "RELAIS_URL": front.url,
            "MODEL": MODEL,
            "EMBEDDING_MODEL": VECTORS,
            "MONGODB_URL": mongo.url,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-4000:]
    notebook = json.loads(executed.read_text())

    shown = printed(notebook)
    for words in (
        f"{MODEL} {{",
        "completed]",
        "80 tokens]",
        "completed, to the letter",
        "nearest to the first: On Monday the town hall opens at nine.",
        "{'completed': 30}",
        "requests completed",
        "goodput: ",
    ):
        assert words in shown, shown
    pictures = [
        output
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2


def test_the_repository_has_it_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text())

    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
