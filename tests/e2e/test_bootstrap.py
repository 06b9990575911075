"""scripts/bootstrap.sh, as a person types it: it starts, answers, restarts what dies, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from relais_testing import leftovers
from relais_testing.tcp_ports import free_port
from relais_testing.waiting import LIVENESS_S, block_until

ROOT = Path(__file__).resolve().parents[2]
BOOTSTRAP = ROOT / "scripts" / "bootstrap.sh"
LIGHT = ("--no-mongodb", "--embedding-workers", "0")
AGENT_S_QUESTION = "Where is my request 48217? And when is the library in Leeds open?"


# Not too often, since asking for the status costs as much as the start of a Python program.
until = partial(block_until, every_s=0.5)


class Stack:
    """One stack in a folder of its own."""

    def __init__(self, run_dir: Path, **settings: str) -> None:
        self.run_dir = run_dir
        self.model = settings.get("SERVED_MODEL_NAME", "relais-demo")
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

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BOOTSTRAP, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIVENESS_S,
            check=False,
        )

    def start(self, *arguments: str) -> str:
        """Start and return what it printed. Without vectors and MongoDB, unless it is told otherwise."""
        return self._start(*LIGHT, *arguments)  # the last one counts

    def start_whole(self) -> str:
        """As a person does who says nothing."""
        return self._start()

    def _start(self, *arguments: str) -> str:
        result = self.run("--detach", *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def shell(self, command: str) -> str:
        """Run a command line that the start printed; return its output."""
        shown = subprocess.run(
            ["bash", "-ec", command],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIVENESS_S,
            check=False,
        )
        assert shown.returncode == 0, shown.stdout + shown.stderr
        return shown.stdout

    def kill_supervisor(self) -> None:
        os.kill(int((self.run_dir / "supervisord.pid").read_text()), signal.SIGKILL)

    def foreground(self) -> tuple[subprocess.Popen[str], str]:
        """Start in the foreground; returns once it is up, with what it has printed."""
        process = subprocess.Popen(
            [BOOTSTRAP, *LIGHT],
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


@contextmanager
def stacks(folder: Path) -> Iterator[Callable[..., Stack]]:
    """Makes stacks, which are stopped in the end; nothing of them may be left then."""
    made: list[Stack] = []

    def make(name: str = "run", **settings: str) -> Stack:
        stack = Stack(folder / name, **settings)
        made.append(stack)
        return stack

    try:
        yield make
    finally:
        left = []
        for stack in made:
            stack.run("down")
            left += stack.processes()
        for process in left:
            process.kill()
        assert not left, f"left behind: {left}"


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    with stacks(tmp_path) as make:
        yield make


@pytest.fixture
def stack(make_stack: Callable[..., Stack]) -> Stack:
    return make_stack()


class Whole:
    """A stack with everything that starts where a person says nothing, and what its start printed."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.printed = stack.start_whole()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """One for all tests that leave it as it is. Its folder and its models have names that a shell could misread."""
    with stacks(tmp_path_factory.mktemp("whole")) as make:
        yield Whole(
            make(
                "un été # 100% ; 'ok' \"x\"",
                SERVED_MODEL_NAME="org/a model",
                EMBEDDING_SERVED_NAME="org/vectors",
            )
        )


def chat(stack: Stack) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{stack.api_port}/v1/chat/completions",
        json.dumps(
            {"model": stack.model, "messages": [{"role": "user", "content": "Bonjour"}]}
        ).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer dev"},
    )
    with urllib.request.urlopen(request, timeout=LIVENESS_S) as response:
        text: str = json.load(response)["choices"][0]["message"]["content"]
    return text


def readme_code() -> str:
    """The Python of README.md, which is one program in two parts."""
    return "".join(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))


def nearness(printed: str) -> list[float]:
    """The cosines of the first request for vectors."""
    return [float(found) for found in re.findall(r"^ +(-?\d\.\d\d)  \w", printed, re.MULTILINE)]


def test_detached_stack_answers_and_reports(whole: Whole) -> None:
    stack, printed = whole.stack, whole.printed
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


def test_printed_admin_command_shows_the_queue(whole: Whole) -> None:
    command = re.search(r"^  admin (.*)$", whole.printed, re.MULTILINE)
    assert command is not None

    queues = json.loads(whole.stack.shell(f"{command[1]} --json"))["queues"]

    assert [queue["model"] for queue in queues] == ["org/a model", "org/vectors"]
    assert all((queue["waiting"], queue["dead_letters"]) == (0, 0) for queue in queues)


def test_printed_kpi_commands_report_the_first_requests(whole: Whole) -> None:
    commands = re.search(r"^  KPIs  (.*\n        .*)$", whole.printed, re.MULTILINE)
    assert commands is not None

    # Traces are written a moment after their requests have ended.
    until(
        lambda: "org/a model" in (told := whole.stack.shell(commands[1])) and "org/vectors" in told
    )


def test_second_start_in_the_same_folder_is_refused(whole: Whole) -> None:
    second = whole.stack.run("--detach")

    assert second.returncode == 1
    assert re.fullmatch(r"bootstrap: already running .*\n", second.stderr)
    assert chat(whole.stack)


def test_own_redis_is_used(whole: Whole, make_stack: Callable[..., Stack]) -> None:
    run = json.loads((whole.stack.run_dir / "run.json").read_text())
    port = next(program["port"] for program in run["programs"] if program["name"] == "redis")
    borrower = make_stack("borrower", REDIS_URL=f"redis://127.0.0.1:{port}/0")

    borrower.start()

    assert sorted(borrower.pids()) == ["llm_worker", "orchestrator"]


def test_killed_processes_are_restarted_and_go_down(whole: Whole) -> None:
    """The last of those that share it."""
    stack = whole.stack
    killed = stack.pids()
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)

    def are_others() -> bool:
        now = stack.pids()
        return now.keys() == killed.keys() and not now.items() & killed.items()

    until(are_others)
    until(lambda: stack.run("status").returncode == 0)
    assert chat(stack)
    down = stack.run("down")

    assert down.returncode == 0
    assert "killed" not in down.stdout
    assert stack.processes() == []
    assert stack.run("status").returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_the_foreground_stops_everything(stack: Stack, number: signal.Signals) -> None:
    process, _ = stack.foreground()

    os.killpg(process.pid, number)  # as a terminal does

    output, _ = process.communicate(timeout=LIVENESS_S)
    assert process.returncode == 0
    assert "stopped" in output
    assert "killed" not in output
    assert stack.processes() == []


def test_signal_while_starting_stops_everything(stack: Stack) -> None:
    process = subprocess.Popen(
        [BOOTSTRAP, *LIGHT],
        env=stack.environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until(lambda: any("/bin/relais-" in part for part in stack.command_lines()))

    os.killpg(process.pid, signal.SIGINT)

    process.communicate(timeout=LIVENESS_S)
    assert process.returncode in (0, 128 + signal.SIGINT)
    assert stack.processes() == []


def test_start_and_down_clean_up_after_a_killed_supervisor(stack: Stack) -> None:
    stack.start()
    stack.kill_supervisor()
    assert stack.run("status").returncode == 1

    printed = stack.start()

    assert "left behind" in printed
    assert "installing" not in printed
    assert chat(stack)
    stack.kill_supervisor()

    assert stack.run("down").returncode == 0

    assert stack.processes() == []


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


def test_program_that_cannot_start_is_named_with_its_own_last_lines(
    make_stack: Callable[..., Stack],
) -> None:
    stack = make_stack(VLLM_MAX_NUM_SEQS="many")

    result = stack.run("--detach", *LIGHT)

    assert result.returncode == 1
    *lines, last = result.stderr.splitlines()
    assert any("VLLM_MAX_NUM_SEQS" in line for line in lines)
    assert last.startswith("bootstrap: llm_worker stopped while it was starting")
    assert stack.processes() == []

    # Those of this start, and not of the one before.
    del stack.environment["VLLM_MAX_NUM_SEQS"]
    stack.environment["VLLM_MAX_MODEL_LEN"] = "long"

    result = stack.run("--detach", *LIGHT)

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
    printed = stack.start_whole()
    assert "first token after" in printed
    near, far = nearness(printed)
    assert near > 0.6 > 0.2 > far
    assert chat(stack)
    # What the README shows, as it shows it.
    shown = subprocess.run(
        [sys.executable, "-c", readme_code().replace(":8080/", f":{stack.api_port}/")],
        capture_output=True,
        text=True,
        timeout=LIVENESS_S,
        check=True,
    ).stdout
    assert "mairie" in shown
    assert shown.endswith("label='complaint'\n")
    agent = subprocess.run(
        [
            *(sys.executable, ROOT / "examples" / "agent.py"),
            *("--url", f"http://127.0.0.1:{stack.api_port}/v1", AGENT_S_QUESTION),
        ],
        capture_output=True,
        text=True,
        timeout=LIVENESS_S,
        check=True,
    )
    assert "request_status({" in agent.stderr
    assert "opening_hours({" in agent.stderr
    assert "accepted" in agent.stdout
    assert "9:00 to 17:00" in agent.stdout
    worker = psutil.Process(stack.pids()["llm_worker"])
    engine = worker.children(recursive=True)

    worker.kill()

    # The engine's processes go with their worker, before the supervisor's next worker has loaded its own.
    until(lambda: not any(process.is_running() for process in engine))
    until(lambda: stack.run("status").returncode == 0)
    assert chat(stack)
    assert "killed" not in stack.run("down").stdout
    assert stack.processes() == []
