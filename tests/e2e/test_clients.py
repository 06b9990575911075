"""The snippets of docs/clients.md run as they stand, against the demo model; only the address is another."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from relais_testing.environments import clients
from relais_testing.process_stack import MODEL, ROOT, VLLM_ON_CPU, make_starter
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import LIVENESS_S

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

SNIPPET = re.compile(
    r"^## (?P<client>.+?)$(?:(?!^## ).)*?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PAGE = (ROOT / "docs" / "clients.md").read_text()
SNIPPETS = {one["client"]: one for one in SNIPPET.finditer(PAGE)}
SERVER = "http://localhost:8080"
QUESTION = "The waiting time at the town hall is far too long."
EMBEDDING_MODEL = "all-MiniLM-L6-v2"
REMARK = r"topic='.+' positive=(True|False)"
# Without internet access; and one process where a client would start one for each core.
ENVIRONMENT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "GUIDELLM__MAX_WORKER_PROCESSES": "1"}


@dataclass(frozen=True)
class Stack:
    """A server, the answer that it gives to the question of the page, and the length of its vectors."""

    url: str
    answer: str
    dimensions: int
    programs: Path
    node_modules: Path

    def run(self, client: str, folder: Path) -> str:
        """Run a client's snippet in a folder of its own and return what it printed."""
        snippet = SNIPPETS[client]
        assert SERVER in snippet["code"]
        code = snippet["code"].replace(SERVER, self.url)
        (folder / "models").symlink_to(ROOT / "models")
        (folder / "node_modules").symlink_to(self.node_modules)
        command = {
            "python": [str(self.programs / "python"), "snippet"],
            "js": [str(self.programs / "node"), "--experimental-eventsource", "snippet.mjs"],
            "bash": ["bash", "-euo", "pipefail", "snippet"],
        }[snippet["language"]]
        (folder / command[-1]).write_text(code)
        done = subprocess.run(
            command,
            cwd=folder,
            env={
                "HOME": str(folder),
                "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
                **ENVIRONMENT,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    programs, node_modules = clients()
    with (
        ValkeyServer(tmp_path_factory.mktemp("redis")) as redis,
        ExitStack() as processes,
    ):
        start = make_starter(processes, redis, tmp_path_factory.mktemp("logs"))
        # No stall of the machine ends a request, or puts a comment into a stream.
        patient = {"WATCH_LEASE_S": "60", "KEEPALIVE_S": "60"}
        encoder = {
            "EMBEDDING_ENGINE": "deterministic",
            "EMBEDDING_SERVED_NAME": EMBEDDING_MODEL,
        }
        start("llm_worker", **VLLM_ON_CPU, **patient)
        start("embedding_worker", **encoder, **patient)
        url = start("orchestrator", EMBEDDING_MODELS=EMBEDDING_MODEL, **patient).url
        with httpx.Client(base_url=url, timeout=LIVENESS_S) as session:
            chat = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}
            answer = session.post("/v1/chat/completions", json=chat).json()
            texts = {"model": EMBEDDING_MODEL, "input": "town hall"}
            vectors = session.post("/v1/embeddings", json=texts).json()
        yield Stack(
            url,
            answer["choices"][0]["message"]["content"],
            len(vectors["data"][0]["embedding"]),
            programs,
            node_modules,
        )


def test_every_section_has_a_snippet() -> None:
    assert list(SNIPPETS) == re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    others = {"curl", "Open WebUI", "Coding agents"}
    assert {*CHATS, *STRUCTURED, *BENCHMARKS, *others} == set(SNIPPETS)


# The rest of what a client prints, after the answer.
CHATS = {
    "openai (Python)": rf"{REMARK}\n\[{{dimensions}}, {{dimensions}}\]",
    "openai (Node.js)": "",
    "openai Responses (Python)": REMARK,
    "openai Responses (Node.js)": "completed",
    "openai-agents": "2 items",
    "anthropic (Python)": rf"\d+ tokens \['{MODEL}', '{EMBEDDING_MODEL}'\]",
    "anthropic (Node.js)": "end_turn",
    "Vercel AI SDK": "{dimensions}",
    "LangChain": "{dimensions}",
    "LlamaIndex": "{dimensions}",
    "LiteLLM": "{dimensions}",
    "llm": "",
    "EventSource": "",
}


@pytest.mark.parametrize("client", CHATS)
def test_client_gets_the_whole_answer(stack: Stack, tmp_path: Path, client: str) -> None:
    head, answer, rest = stack.run(client, tmp_path).partition(stack.answer)
    assert answer
    assert head == ("completed " if client == "EventSource" else "")
    assert re.fullmatch(CHATS[client].replace("{dimensions}", str(stack.dimensions)), rest.strip())


STRUCTURED = ("instructor", "Pydantic AI")


@pytest.mark.parametrize("client", STRUCTURED)
def test_client_gets_an_object_of_its_schema(stack: Stack, tmp_path: Path, client: str) -> None:
    assert re.fullmatch(REMARK, stack.run(client, tmp_path).strip())


BENCHMARKS = ("guidellm", "AIPerf")


def test_guidellm_completes_its_requests(stack: Stack, tmp_path: Path) -> None:
    printed = stack.run("guidellm", tmp_path)
    row = next(line for line in printed.splitlines() if line.startswith("| concurrent@2 "))
    completed, incomplete, errors = row.split("|")[7:10]
    assert (int(completed), int(incomplete), int(errors)) == (4, 0, 0)


def test_aiperf_completes_its_requests(stack: Stack, tmp_path: Path) -> None:
    stack.run("AIPerf", tmp_path)
    (report,) = tmp_path.glob("artifacts/*/profile_export_aiperf.json")
    found = json.loads(report.read_text())
    assert found["request_count"]["avg"] == 4
    assert not found["error_summary"]


def test_curl_gets_chunks(stack: Stack, tmp_path: Path) -> None:
    *chunks, done = stack.run("curl", tmp_path).strip().split("\n\n")
    assert done == "data: [DONE]"
    choices = [json.loads(one.removeprefix("data: "))["choices"][0] for one in chunks]
    assert "".join(one["delta"].get("content", "") for one in choices) == stack.answer


def test_settings_of_open_webui_lead_to_the_routes_that_it_asks(stack: Stack) -> None:
    settings = dict(re.findall(r"--env (\w+)=(\S+)", SNIPPETS["Open WebUI"]["code"]))
    base = settings["OPENAI_API_BASE_URL"].replace("http://host.docker.internal:8080", stack.url)
    key = {"Authorization": f"Bearer {settings['OPENAI_API_KEY']}"}
    with httpx.Client(base_url=base, headers=key, timeout=LIVENESS_S) as session:
        models = {one["id"] for one in session.get("/models").json()["data"]}
        assert {MODEL, settings["RAG_EMBEDDING_MODEL"]} <= models
        chat = {
            "model": MODEL,
            "messages": [{"role": "user", "content": QUESTION}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        answer = session.post("/chat/completions", json=chat)
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.text.endswith("data: [DONE]\n\n")
        texts = {"model": settings["RAG_EMBEDDING_MODEL"], "input": ["town hall", "mairie"]}
        vectors = session.post("/embeddings", json=texts).json()["data"]
    assert [len(one["embedding"]) for one in vectors] == [stack.dimensions] * 2


def test_settings_of_a_coding_agent_lead_to_the_routes_that_it_asks(stack: Stack) -> None:
    settings = dict(
        re.findall(r"^export (\w+)=(\S+)$", SNIPPETS["Coding agents"]["code"], re.MULTILINE)
    )
    base = settings["ANTHROPIC_BASE_URL"].replace(SERVER, stack.url)
    headers = {"X-Api-Key": settings["ANTHROPIC_API_KEY"], "Anthropic-Version": "2023-06-01"}
    assert settings["ANTHROPIC_MODEL"] == "your-model"
    request = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}
    with httpx.Client(base_url=base, headers=headers, timeout=LIVENESS_S) as session:
        assert session.head("/").status_code < 400
        counted = session.post("/v1/messages/count_tokens?beta=true", json=request)
        answer = session.post("/v1/messages?beta=true", json={**request, "max_tokens": 32_000})
    assert answer.json()["content"][0]["text"] == stack.answer
    usage = answer.json()["usage"]
    read = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert read == counted.json()["input_tokens"]
