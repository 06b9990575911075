"""`start`: bring a run up, answer a first request, stay with it."""

from __future__ import annotations

import fcntl
import json
import math
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from stack import first_request, processes
from stack.embedded_redis import redis_address
from stack.errors import StackError, StopRequested
from stack.logs import LogSizes, last_lines, log_file, log_sizes, readable
from stack.model import Program, Run, Stage
from stack.models import DEMO_MODEL
from stack.plan import Counts, Plan, make_plan, run_directory
from stack.probes import why_not_ready
from stack.progress import Wait, emit, say
from stack.stop import say_stopped, take_down
from stack.supervisord import ProcessState, Supervisor, launch

_POLL_S = 0.2
_WATCH_EVERY_S = 1.0
_READY_TIMEOUT_S = 3600  # a large model may have to be downloaded
_NOT_UP_PATIENCE_S = 5.0  # there is no work to finish, and a model that is loading hears nothing
_LOG_LINES = 15
_LOG_LINE_CHARS = 300
_OPEN_FILES = 65536


def start(root: Path, environ: Mapping[str, str], counts: Counts, *, detach: bool) -> None:
    """Returns when the run is up (`detach`), or when it was asked to end and has ended."""
    started = time.monotonic()
    run_dir = run_directory(root, environ)
    _stop_on_signals()
    _refuse_second(run_dir)
    with _sole_starter(run_dir):
        _refuse_second(run_dir)
        _clear_away_earlier(run_dir)
        plan = make_plan(root, environ, counts)
        run = plan.run
        _check_redis(plan)
        _check_key(plan)
        _prepare(plan)
        logs_before = log_sizes(run)
        up = False
        try:
            daemon = _bring_up(plan, logs_before)
            up = True
            # Never a key itself, which would stay in logs.
            key = "dev" if environ.get("ENV", "dev") == "dev" else "$RELAIS_API_KEY"
            _announce(run, time.monotonic() - started, key, detach=detach)
            if not detach:
                _stay(run, daemon)
        except StopRequested:
            say("stopping (once more to kill what is still draining)")
            say_stopped(take_down(run, patience_s=math.inf if up else _NOT_UP_PATIENCE_S))
            if not up:
                raise
        except BaseException:
            take_down(run, patience_s=math.inf if up else _NOT_UP_PATIENCE_S)
            raise


# --- before ---------------------------------------------------------------------------------------------------------


def _stop_on_signals() -> None:
    """A closed terminal asks for the end, as Ctrl-C does."""

    def request_stop(number: int, _frame: FrameType | None) -> None:
        raise StopRequested(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, request_stop)


@contextmanager
def _sole_starter(run_dir: Path) -> Iterator[None]:
    """Two starts in one directory at the same moment would share its files."""
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (run_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"another start is under way in {run_dir}") from None
        yield


def _refuse_second(run_dir: Path) -> None:
    earlier = Run.load(run_dir)
    if earlier is not None and Supervisor(earlier.socket).answers():
        raise StackError(
            f"already running in {run_dir}: see 'scripts/bootstrap.sh status', stop it with 'down', "
            "or set RELAIS_RUN_DIR and API_PORT for a second one"
        )


def _clear_away_earlier(run_dir: Path) -> None:
    """End what a supervisor that was killed has left behind."""
    earlier = Run.load(run_dir)
    left = processes.end_all(earlier.run_id, grace_s=5.0) if earlier is not None else 0
    if left:
        say(f"ended {left} processes that an earlier run had left behind")


def _check_redis(plan: Plan) -> None:
    url = plan.environment.get("REDIS_URL", "")
    if plan.redis_config or not url:
        return
    address = redis_address(url)
    if address is None:
        return
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError as error:
        host, port = address
        raise StackError(
            f"Redis does not answer at {host}:{port} ({error.strerror or error}): check REDIS_URL"
        ) from None


def _check_key(plan: Plan) -> None:
    """Refuse a key for the first request that would be refused once everything has started."""
    path, key = plan.environment.get("API_KEYS"), plan.environment.get("RELAIS_API_KEY")
    if plan.environment["ENV"] == "dev" or not path or not key:
        return
    # Other commands run without the environment that has it.
    from relais_common.config.api_keys import digest, read_file
    from relais_common.jobs.errors import SettingsError

    try:
        keys = read_file(Path(path)).items()
    except SettingsError as error:
        raise StackError(str(error)) from None
    for client, rights in keys:
        if digest(key) not in rights.digests:
            continue
        wanted = {plan.run.model, plan.run.embedding_model} - {""}
        if rights.models is not None and not wanted <= rights.models:
            raise StackError(
                f"RELAIS_API_KEY is {client!r}'s, who may not use {', '.join(sorted(wanted - rights.models))}: "
                "the first requests need a key that may"
            )
        return
    raise StackError(f"RELAIS_API_KEY is none of the keys in {path}: set it to one of them")


def _prepare(plan: Plan) -> None:
    run = plan.run
    run.logs.mkdir(parents=True, exist_ok=True)
    if plan.redis_config:
        redis_dir = Path(run.run_dir) / "redis"
        redis_dir.mkdir(exist_ok=True)
        config = redis_dir / "redis.conf"
        config.touch(mode=0o600)
        config.write_text(plan.redis_config)
    run.save()
    # One open stream is one descriptor, and the usual soft limit is 1024. Children inherit it.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- up -------------------------------------------------------------------------------------------------------------


def _bring_up(plan: Plan, logs_before: LogSizes) -> subprocess.Popen[bytes]:
    run = plan.run
    daemon = launch(run, plan.environment)
    supervisor = Supervisor(run.socket)
    # The stores are waited for: the others would only log that they are away. They need not wait for each other.
    for stages in ((Stage.REDIS, Stage.MONGODB), (Stage.ORCHESTRATOR, Stage.WORKER)):
        programs = [program for program in run.programs if program.stage in stages]
        for program in programs:
            supervisor.start(program.name)
        _wait_ready(run, supervisor, programs, logs_before)
    api = next(program for program in run.programs if program.stage == Stage.ORCHESTRATOR)
    first_request.ask(run, api, demo=plan.demo)
    if run.embedding_model:
        first_request.compare(run, api)
    return daemon


def _wait_ready(
    run: Run, supervisor: Supervisor, programs: list[Program], logs_before: LogSizes
) -> None:
    """Wait for all of them at once. A program that ends meanwhile ends the wait."""
    pending = {program.name: program for program in programs}
    pids: dict[str, int] = {}
    with Wait() as wait:
        while pending:
            states = supervisor.states()
            reasons = []
            for name, program in list(pending.items()):
                state = states[name]
                # Up, and still the process that was started.
                if not state.is_up or pids.setdefault(name, state.pid) != state.pid:
                    wait.clear()
                    raise StackError(_last_words(run, name, logs_before))
                reason = why_not_ready(run, program, state.pid)
                if reason is None:
                    del pending[name]
                    wait.say(f"{name} is ready ({wait.elapsed_s:.1f} s)")
                else:
                    reasons.append(f"{name} ({reason})")
            if wait.elapsed_s > _READY_TIMEOUT_S:
                raise StackError(
                    f"not ready after {_READY_TIMEOUT_S} s: {', '.join(reasons)}; logs in {run.logs}"
                )
            if pending:
                wait.tick(f"waiting for {', '.join(reasons)}")
                time.sleep(_POLL_S)


def _last_words(run: Run, name: str, logs_before: LogSizes) -> str:
    """Print the end of what this run's program logged; say in one line that it stopped."""
    for line in last_lines(run, name, _LOG_LINES, after=logs_before):
        print(f"  {name} | {readable(line)[:_LOG_LINE_CHARS]}", file=sys.stderr, flush=True)
    return f"{name} stopped while it was starting; its last lines are above, all of them in {log_file(run, name)}"


def _announce(run: Run, elapsed_s: float, key: str, *, detach: bool) -> None:
    say(f"up after {elapsed_s:.0f} s")
    body = {
        "model": run.model,
        "stream": True,
        "messages": [{"role": "user", "content": "Bonjour"}],
    }
    for url in run.api_urls:
        emit(f"  API   {url}   ({run.models_served})\n")
    emit(
        f'  try   curl -N {run.api_urls[0]}/v1/chat/completions -H "Authorization: Bearer {key}" \\\n'
        f"          -H 'Content-Type: application/json' -d '{json.dumps(body)}'\n"
        f"  admin {admin_command(run)}\n"
    )
    if run.keeps_traces:
        emit(f"  KPIs  {_kpi_commands(run)}\n")
    emit(f"  logs  {run.logs}\n  stop  {'scripts/bootstrap.sh down' if detach else 'Ctrl-C'}\n")


def admin_command(run: Run) -> str:
    """Where it finds this run's Redis and models, beside what the user has set himself."""
    settings = [f"REDIS_PORT={one.port} " for one in run.programs if one.stage == Stage.REDIS]
    texts = tuple(model for model in run.models if model != run.embedding_model)
    if texts != (Path(DEMO_MODEL).name,):
        settings.append(f"MODELS={shlex.quote(','.join(texts))} ")
    if run.embedding_model:
        settings.append(f"{run.embedding_setting}={shlex.quote(run.embedding_model)} ")
    return f"{''.join(settings)}./relais admin queues"


def _kpi_commands(run: Run) -> str:
    """Fold what was traced into rollups, then show the hours up to this one. Asked twice, they do no harm."""
    urls = [
        f"mongodb://{one.host}:{one.port}" for one in run.programs if one.stage == Stage.MONGODB
    ]
    # Not exported: the next start would take it for a server of the user's own.
    command = "".join(f"MONGODB_URL={url} " for url in urls) + "./relais kpi"
    return f"{command} rollup\n        {command} report --until 0h"


# --- and after ------------------------------------------------------------------------------------------------------


def _stay(run: Run, daemon: subprocess.Popen[bytes]) -> None:
    """Say what is restarted, until a signal asks for the end."""
    supervisor = Supervisor(run.socket)
    known = supervisor.states()
    while daemon.poll() is None:
        time.sleep(_WATCH_EVERY_S)
        # Busy or gone; poll() tells which.
        with suppress(OSError):
            known = _report_changes(known, supervisor.states())
    # Ended from elsewhere: by `down`, or by a kill that left the others alone.
    asked = Run.load(Path(run.run_dir)) is None or daemon.returncode == 0
    killed = take_down(run)
    if not asked:
        raise StackError(
            f"the supervisor died; all of it was stopped; its log: {log_file(run, 'supervisord')}"
        )
    say_stopped(killed)


def _report_changes(
    known: Mapping[str, ProcessState], now: dict[str, ProcessState]
) -> dict[str, ProcessState]:
    for name, state in now.items():
        before = known.get(name)
        if before is None or (before.state, before.pid) == (state.state, state.pid):
            continue
        if state.is_up and state.pid != before.pid:
            say(f"{name} was restarted (pid {state.pid})")
        elif state.state in ("BACKOFF", "FATAL"):
            say(f"{name} does not stay up: {state.description}")
    return now
