"""scripts/bootstrap.sh, as a person types it: it starts, answers, restarts what dies, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from relais_testing import leftovers
from relais_testing.tcp_ports import free_port

ROOT = Path(__file__).resolve().parents[2]
BOOTSTRAP = ROOT / "scripts" / "bootstrap.sh"
DEMO_MODEL = ROOT / "models" / "relais-demo"


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not true within {timeout_s} s"
        time.sleep(0.1)


class Stack:
    """One stack in a folder of its own."""

    def __init__(self, run_dir: Path, **settings: str) -> None:
        self.run_dir = run_dir
        self.api_port = free_port(in_a_row=2)
        self._marker = f"RELAIS_RUN_DIR={run_dir}"
        self.environment = {
            key: os.environ[key]
            for key in os.environ
            if key in {"HOME", "LANG", "PATH", "RELAIS_DEVICE", leftovers.MARK}
            or key.startswith(("PIP_", "SSL_", "UV_"))
        } | {
            "ENGINE": "deterministic",
            "RELAIS_RUN_DIR": str(run_dir),
            "API_PORT": str(self.api_port),
            # What is killed here gets its port back, whatever else starts on this machine meanwhile.
            "REDIS_PORT": str(free_port()),
            "MONGODB_PORT": str(free_port()),
            "HEALTH_PORT": str(free_port(in_a_row=4)),
            **settings,
        }

    def run(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BOOTSTRAP, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(self, *arguments: str, timeout_s: float = 60) -> str:
        """Start and return what it printed. Without vectors and MongoDB, unless it is told otherwise: less to start."""
        if "--embedding-workers" not in arguments:
            arguments = ("--embedding-workers", "0", *arguments)
        if "MONGODB_URL" not in self.environment:
            arguments = ("--no-mongodb", *arguments)
        result = self.run("--detach", *arguments, timeout_s=timeout_s)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def start_whole(self, timeout_s: float = 60) -> str:
        """As a person does who says nothing."""
        result = self.run("--detach", timeout_s=timeout_s)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def foreground(self) -> tuple[subprocess.Popen[str], str]:
        """Start in the foreground; returns once it is up, with what it has printed."""
        process = subprocess.Popen(
            [BOOTSTRAP],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if "Ctrl-C" in line:
                return process, printed
        raise AssertionError(f"it ended: {printed}")

    def pids(self) -> dict[str, int]:
        """The programs and their pids, as `status` shows them."""
        return {
            found[1]: int(found[2])
            for found in re.finditer(
                r"^(\S+) +(?:running|starting) +pid (\d+)", self.run("status").stdout, re.MULTILINE
            )
        }

    def processes(self) -> list[psutil.Process]:
        """Everything that was started for this folder, whoever its parent is by now."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("RELAIS_RUN_DIR") == str(self.run_dir):
                    found.append(process)
        return found

    def command_lines(self) -> list[str]:
        """The words of their command lines."""
        words: list[str] = []
        for process in self.processes():
            with suppress(psutil.Error):  # it has ended since
                words += process.cmdline()
        return words


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    stacks: list[Stack] = []

    def make(name: str = "run", **settings: str) -> Stack:
        stack = Stack(tmp_path / name, **settings)
        stacks.append(stack)
        return stack

    yield make
    for stack in stacks:
        stack.run("down")
        left = stack.processes()
        for process in left:
            process.kill()
        assert not left, f"left behind: {left}"


@pytest.fixture
def stack(make_stack: Callable[..., Stack]) -> Stack:
    return make_stack()


def chat(stack: Stack) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{stack.api_port}/v1/chat/completions",
        json.dumps(
            {"model": "relais-demo", "messages": [{"role": "user", "content": "Bonjour"}]}
        ).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer dev"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        text: str = json.load(response)["choices"][0]["message"]["content"]
    return text


def readme_code() -> str:
    """The Python of README.md, which is one program in two parts."""
    return "".join(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))


def nearness(printed: str) -> list[float]:
    """The cosines of the first request for vectors."""
    return [float(found) for found in re.findall(r"^ +(-?\d\.\d\d)  \w", printed, re.MULTILINE)]


def test_detached_stack_answers_reports_and_goes_down(stack: Stack) -> None:
    printed = stack.start_whole()

    assert f"http://localhost:{stack.api_port}" in printed
    assert "first token after" in printed
    near, far = nearness(printed)
    assert near > far
    assert chat(stack)
    status = stack.run("status")
    assert status.returncode == 0
    assert sorted(stack.pids()) == [
        "embedding_worker",
        "llm_worker",
        "mongodb",
        "orchestrator",
        "redis",
    ]
    for worker in ("llm_worker", "embedding_worker"):
        assert "worker_ready" in stack.run("logs", worker).stdout

    down = stack.run("down")

    assert down.returncode == 0
    assert "killed" not in down.stdout
    assert stack.processes() == []
    assert stack.run("status").returncode == 1


def test_printed_admin_command_shows_the_queue(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(SERVED_MODEL_NAME="org/a model", EMBEDDING_SERVED_NAME="org/vectors")
    command = re.search(r"^  admin (.*)$", stack.start_whole(), re.MULTILINE)
    assert command is not None

    shown = subprocess.run(
        ["bash", "-c", f"{command[1]} --json"],
        cwd=ROOT,
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert shown.returncode == 0, shown.stderr
    queues = json.loads(shown.stdout)["queues"]
    assert [queue["model"] for queue in queues] == ["org/a model", "org/vectors"]
    assert all((queue["waiting"], queue["dead_letters"]) == (0, 0) for queue in queues)


def test_printed_kpi_commands_report_the_first_requests(stack: Stack) -> None:
    commands = re.search(r"^  KPIs  (.*\n        .*)$", stack.start_whole(), re.MULTILINE)
    assert commands is not None

    def report() -> str:
        shown = subprocess.run(
            ["bash", "-ec", commands[1]],
            cwd=ROOT,
            env=stack.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert shown.returncode == 0, shown.stdout + shown.stderr
        return shown.stdout

    # Traces are written a moment after their requests have ended.
    until(lambda: "relais-demo" in (told := report()) and "all-MiniLM-L6-v2" in told)
    down = stack.run("down")
    assert "killed" not in down.stdout
    assert stack.processes() == []


def test_nothing_is_installed_the_second_time(stack: Stack) -> None:
    stack.start()
    stack.run("down")

    assert "installing" not in stack.start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_the_foreground_stops_everything(stack: Stack, number: signal.Signals) -> None:
    process, _ = stack.foreground()

    os.killpg(process.pid, number)  # as a terminal does

    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stopped" in output
    assert "killed" not in output
    assert stack.processes() == []


def test_signal_while_starting_stops_everything(stack: Stack) -> None:
    process = subprocess.Popen(
        [BOOTSTRAP],
        env=stack.environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until(lambda: any("/bin/relais-" in part for part in stack.command_lines()))

    os.killpg(process.pid, signal.SIGINT)

    process.communicate(timeout=60)
    assert process.returncode in (0, 128 + signal.SIGINT)
    assert stack.processes() == []


def test_killed_process_is_restarted(stack: Stack) -> None:
    stack.start_whole()

    for name, pid in stack.pids().items():
        os.kill(pid, signal.SIGKILL)

        until(lambda name=name, pid=pid: stack.pids().get(name) not in (pid, None))  # type: ignore[misc]
        until(lambda: stack.run("status").returncode == 0)
        assert chat(stack)


def test_down_cleans_up_after_a_killed_supervisor(stack: Stack) -> None:
    stack.start()
    os.kill(int((stack.run_dir / "supervisord.pid").read_text()), signal.SIGKILL)
    assert stack.run("status").returncode == 1

    assert stack.run("down").returncode == 0

    assert stack.processes() == []


def test_start_cleans_up_after_a_killed_supervisor(stack: Stack) -> None:
    stack.start()
    os.kill(int((stack.run_dir / "supervisord.pid").read_text()), signal.SIGKILL)

    assert "left behind" in stack.start()

    assert chat(stack)


def test_second_start_in_the_same_folder_is_refused(stack: Stack) -> None:
    stack.start()

    second = stack.run("--detach")

    assert second.returncode == 1
    assert re.fullmatch(r"bootstrap: already running .*\n", second.stderr)
    assert chat(stack)


def test_two_stacks_run_side_by_side(make_stack: Callable[..., Stack]) -> None:
    first, second = (
        make_stack(name, REDIS_PORT="", MONGODB_PORT="", HEALTH_PORT="")
        for name in ("first", "second")
    )
    first.start()
    second.start()

    first.run("down")

    assert chat(second)
    assert first.processes() == []


def test_several_processes_of_a_kind(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack()
    stack.start("--orchestrators", "2", "--llm-workers", "2", "--embedding-workers", "2")

    assert sorted(stack.pids()) == [
        "embedding_worker",
        "embedding_worker-2",
        "llm_worker",
        "llm_worker-2",
        "orchestrator",
        "orchestrator-2",
        "redis",
    ]
    assert stack.run("status").returncode == 0


def test_odd_characters_in_a_path(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack("un été # 100% ; 'ok' \"x\"")
    stack.start()

    assert chat(stack)
    assert "worker_ready" in stack.run("logs", "llm_worker").stdout


def test_own_redis_is_used(make_stack: Callable[..., Stack]) -> None:
    lender = make_stack("lender")
    lender.start()
    run = json.loads((lender.run_dir / "run.json").read_text())
    port = next(program["port"] for program in run["programs"] if program["name"] == "redis")
    borrower = make_stack("borrower", REDIS_URL=f"redis://127.0.0.1:{port}/0")

    borrower.start()

    assert sorted(borrower.pids()) == ["llm_worker", "orchestrator"]


def test_taken_port_is_one_clear_line(stack: Stack) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", stack.api_port))
        holder.listen()

        result = stack.run("--detach")

    assert result.returncode == 1
    assert re.fullmatch(
        rf"bootstrap: port {stack.api_port} on 127\.0\.0\.1 is taken: .*API_PORT.*\n", result.stderr
    )


def test_absent_redis_is_one_clear_line(make_stack: Callable[..., Stack]) -> None:
    port = free_port()

    result = make_stack(REDIS_URL=f"redis://127.0.0.1:{port}/0").run("--detach")

    assert result.returncode == 1
    assert re.fullmatch(
        rf"bootstrap: Redis does not answer at 127\.0\.0\.1:{port} .*REDIS_URL\n", result.stderr
    )


def test_absent_model_is_one_clear_line(make_stack: Callable[..., Stack], tmp_path: Path) -> None:
    result = make_stack(ENGINE="vllm", VLLM_HF_REPO_ID=str(tmp_path / "nothing")).run("--detach")

    assert result.returncode == 1
    assert re.fullmatch(r"bootstrap: there is no model in .*VLLM_HF_REPO_ID.*\n", result.stderr)


def test_program_that_cannot_start_is_named_with_its_last_lines(
    make_stack: Callable[..., Stack],
) -> None:
    stack = make_stack(VLLM_MAX_NUM_SEQS="many")

    result = stack.run("--detach")

    assert result.returncode == 1
    *lines, last = result.stderr.splitlines()
    assert any("VLLM_MAX_NUM_SEQS" in line for line in lines)
    assert last.startswith("bootstrap: llm_worker stopped while it was starting")
    assert stack.processes() == []


def test_failed_start_shows_no_line_of_an_earlier_one(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(VLLM_MAX_NUM_SEQS="many")
    assert "VLLM_MAX_NUM_SEQS" in stack.run("--detach").stderr
    del stack.environment["VLLM_MAX_NUM_SEQS"]
    stack.environment["VLLM_MAX_MODEL_LEN"] = "long"

    result = stack.run("--detach")

    assert result.returncode == 1
    assert "VLLM_MAX_MODEL_LEN" in result.stderr
    assert "VLLM_MAX_NUM_SEQS" not in result.stderr


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(
        json.dumps(
            {
                "one": "a-key-that-is-long-enough-for-one",
                "two": {"key": "a-key-that-is-long-enough-for-two", "models": ["another"]},
            }
        )
    )
    return path


def test_missing_keys_are_named_before_anything_starts(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(ENV="prod")

    result = stack.run("--detach")

    assert result.returncode == 1
    assert result.stdout == ""
    assert re.search(r"^  API_KEYS: .*\n  RELAIS_API_KEY: ", result.stderr, re.MULTILINE)
    assert not stack.run_dir.exists() or not list(stack.run_dir.iterdir())


@pytest.mark.parametrize(
    ("key", "said"),
    [("a-key-of-nobody", "none of the keys"), ("a-key-that-is-long-enough-for-two", "may not use")],
)
def test_key_that_would_be_refused_is_one_clear_line(
    make_stack: Callable[..., Stack], keys: Path, key: str, said: str
) -> None:
    stack = make_stack(ENV="prod", API_KEYS=str(keys), RELAIS_API_KEY=key)

    result = stack.run("--detach")

    assert result.returncode == 1
    assert re.fullmatch(rf"bootstrap: RELAIS_API_KEY is .*{said}.*\n", result.stderr)
    assert key not in result.stderr
    assert not (stack.run_dir / "logs").exists()


def test_with_a_key_the_first_request_is_answered(
    make_stack: Callable[..., Stack], keys: Path
) -> None:
    key = "a-key-that-is-long-enough-for-one"

    printed = make_stack(ENV="prod", API_KEYS=str(keys), RELAIS_API_KEY=key).start()

    assert "$RELAIS_API_KEY" in printed
    assert key not in printed


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_models_answer_and_no_engine_outlives_its_worker(
    make_stack: Callable[..., Stack],
) -> None:
    stack = make_stack(ENGINE="vllm")
    printed = stack.start_whole(timeout_s=300)
    assert "first token after" in printed
    near, far = nearness(printed)
    assert near > 0.6 > 0.2 > far
    assert chat(stack)
    # What the README shows, as it shows it.
    shown = subprocess.run(
        [sys.executable, "-c", readme_code().replace(":8080/", f":{stack.api_port}/")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert "mairie" in shown
    assert shown.endswith("kind='complaint'\n")
    worker = psutil.Process(stack.pids()["llm_worker"])
    engine = worker.children(recursive=True)

    worker.kill()

    # The engine's processes go with their worker, before the supervisor's next worker has loaded its own.
    until(lambda: not any(process.is_running() for process in engine), timeout_s=15)
    until(lambda: stack.run("status").returncode == 0, timeout_s=180)
    assert chat(stack)
    assert "killed" not in stack.run("down", timeout_s=120).stdout
    assert stack.processes() == []
