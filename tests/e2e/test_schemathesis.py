"""Schemathesis asks the live server whatever its document allows, and what it does not, and holds the answers to it.

Every check is on but one: a deleted resource need not be gone, because a DELETE here cancels a request, and what became
of it can still be read.
The seed is fixed: a failure comes back. `SCHEMATHESIS_EXAMPLES=500` makes as many requests of each kind at random as
that, in place of a few; `SCHEMATHESIS_SEED` begins elsewhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relais_testing.mongo import MongoServer
from relais_testing.process_stack import DETERMINISTIC, Starter
from relais_testing.processes import ServiceProcess

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "4")
SEED = os.environ.get("SCHEMATHESIS_SEED", "20")
KEY = "an-operator-s-key-of-the-tests"

# What only a model can refuse (an id that is not in its vocabulary, a structure that its engine cannot follow), a
# choice of a tool that is not there, dates in the wrong order, and words that are no dates, are a 400 that no document
# foretells; nor does one tell how long a file is, which routes take batches, and which bytes fit into the name of a
# form's field. A deadline may pass. A response must be there to be gone on from, and an item to be listed after.
CONFIG = "".join(
    f"""
[[operations]]
include-name = "{operation}"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "409", "416", "429", "5xx"]
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "504"]
"""
    for operation in (
        "POST /v1/requests",
        "POST /v1/tokenize",
        "POST /tokenize",
        "POST /v1/detokenize",
        "POST /detokenize",
        "POST /v1/files",
        "GET /v1/files/{file_id}/content",
        "POST /v1/batches",
        "POST /v1/completions",
        "POST /v1/messages",
        "POST /v1/messages/count_tokens",
        "GET /v1/models",
        "GET /v1/channels/{channel_id}/events",
        "POST /v1/responses",
        "POST /v1/responses/input_tokens",
        "GET /v1/responses/{response_id}",
        "GET /v1/responses/{response_id}/input_items",
        "POST /v1/responses/{response_id}/cancel",
        "GET /v1/usage",
        "GET /v1/kpis",
    )
)
# It cannot make values of so many alternatives: what coverage tries of this route must do.
CONFIG += """
[[operations]]
include-name = "POST /v1/chat/completions"
phases.fuzzing.enabled = false
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "409", "416", "429", "5xx"]
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "504"]
"""


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[MongoServer]:
    """Without it the key figures are a 503."""
    with MongoServer(tmp_path / "mongo") as server:
        yield server


def run_schemathesis(front: ServiceProcess, folder: Path, *options: str) -> None:
    (folder / "schemathesis.toml").write_text(CONFIG)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("run", f"{front.url}/openapi.json"),
            *("--checks", "all", "--exclude-checks", "use_after_free"),
            *("--seed", SEED, "--max-examples", EXAMPLES, "--suppress-health-check", "all"),
            *("--request-timeout", "60", "--continue-on-failure", "--no-color"),
            *options,
        ],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr}"
    assert "API Operations:" in done.stdout
    assert "request_crashed" not in front.log_path.read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_the_document_says_holds_with_keys(
    start: Starter, mongo: MongoServer, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"ops": {"key": KEY, "admin": True}}))
    keys.chmod(0o600)
    start("llm_worker", **DETERMINISTIC, MAX_OUTPUT_TOKENS="16")
    front = start("orchestrator", ENV="staging", API_KEYS=str(keys), MONGODB_URL=mongo.url)
    run_schemathesis(front, tmp_path, "--header", f"Authorization: Bearer {KEY}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_the_document_says_holds_without_keys(
    start: Starter, mongo: MongoServer, tmp_path: Path
) -> None:
    start("llm_worker", **DETERMINISTIC, MAX_OUTPUT_TOKENS="16")
    # What coverage tries of every field is the same with keys, and takes most of the time.
    front = start("orchestrator", MONGODB_URL=mongo.url)
    run_schemathesis(front, tmp_path, "--phases", "examples,fuzzing,stateful")
