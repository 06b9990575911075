"""What a person sees of `relais admin`."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from relais_admin import tables
from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.inspection import ChannelView, DeadLetter, KeyBacklog, QueueView
from relais_common.jobs.job import Operation, Priority, Status, StopReason, WorkerState

MODEL = "AgentPublic/fabrique-reference-2"
LONG = "a-very-long-name-of-something-that-nobody-would-choose.example.org"
CHANNEL = new_channel_id(MODEL)
SHORT = "." + CHANNEL.rpartition(".")[2]

QUEUE = QueueView(
    model=MODEL,
    waiting=10_000,
    waiting_by_priority={"high": 1234, "normal": 5678, "low": 3088, "batch": 0},
    waiting_by_key=(KeyBacklog("[bold]service", 9000), KeyBacklog("other", 1000)),
    oldest_waiting_s=7400.0,
    suspects=12,
    running=640,
    dead_letters=1000,
    stored_bytes=123_456_789,
    waiting_traces=90_000,
    oldest_trace_s=754.0,
    service_s=12.3,
    estimated_wait_s=90_061.0,
)
VIEW = ChannelView(
    channel_id=CHANNEL,
    key_id=LONG,
    priority=Priority.NORMAL,
    operation=Operation.TEXT_COMPLETION,
    status=Status.RUNNING,
    age_s=754.0,
    deadline_in_s=100.0,
    running_s=3.0,
    worker=LONG,
    takes=12,
    failures=2,
    tail=10_000,
    stop=None,
)
LETTER = DeadLetter(
    channel_id=CHANNEL,
    key_id=LONG,
    priority=Priority.LOW,
    operation=Operation.CHAT,
    accepted_at_s=1_795_000_000.0,
    failed_at_s=1_795_000_060.0,
    takes=3,
    failures=3,
    worker=LONG,
    code="worker_lost",
    message="workers died while they ran this request",
    request_bytes=512,
)


def lines(shown: RenderableType, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue().splitlines()
    assert all(len(line) <= width for line in text), text
    return text


def test_queue_at_its_fullest_fits_one_line_of_80_columns() -> None:
    title, row, *_ = lines(tables.queues([replace(QUEUE, model="relais-demo")]))
    assert title.split()[:2] == ["MODEL", "WAITING"]
    assert row.split() == [
        *("relais-demo", "10000", "1234", "5678", "3088", "2h03m"),
        *("12", "640", "1000", "12s", "1d01h"),
    ]


def test_backlogs_are_told_by_key_and_names_are_no_markup() -> None:
    text = " ".join(" ".join(lines(tables.queues([QUEUE]))).split())
    assert f"{MODEL}, waiting by key: [bold]service 9000, other 1000" in text


def test_traces_that_wait_are_told_and_none_are_not() -> None:
    text = " ".join(" ".join(lines(tables.queues([QUEUE]))).split())
    assert f"{MODEL}: 90000 traces wait to be written, the oldest for 12m34s" in text
    none = replace(QUEUE, waiting_traces=0, oldest_trace_s=None)
    assert "traces" not in " ".join(lines(tables.queues([none])))


def test_channel_ids_are_never_cut() -> None:
    for status in (VIEW, replace(VIEW, status=Status.QUEUED, worker=None)):
        assert any(SHORT in line for line in lines(tables.channels({MODEL: [status]})))
    assert any(SHORT in line for line in lines(tables.dead_letters({MODEL: [LETTER]})))
    assert any(CHANNEL in line for line in lines(tables.dead_letter(LETTER)))


def test_each_channel_takes_one_line() -> None:
    assert len(lines(tables.channels({MODEL: [VIEW] * 5}))) == 7
    assert len(lines(tables.dead_letters({MODEL: [LETTER] * 5}))) == 7


def test_wide_terminal_shows_names_in_full() -> None:
    shown = "\n".join(lines(tables.channels({MODEL: [VIEW]}), width=220))
    assert shown.count(LONG) == 2


def test_nothing_is_said_in_words() -> None:
    assert lines(tables.workers([])) == ["no workers"]
    assert lines(tables.channels({"a": [], "b": []})) == ["a: no channels", "b: no channels"]
    assert lines(tables.dead_letters({"a": []})) == ["a: no dead letters"]


def test_status_says_what_an_operator_should_know() -> None:
    assert tables.channel_status(VIEW) == "running"
    assert tables.channel_status(replace(VIEW, stop=StopReason.CLIENT)) == "stopping"
    assert tables.channel_status(replace(VIEW, status=Status.QUEUED, failures=0)) == "queued"
    assert tables.channel_status(replace(VIEW, status=Status.QUEUED, failures=1)) == "suspect"


def test_worker_is_shown_with_its_load() -> None:
    states = [
        WorkerState("w1", "m", capacity=64, running=3, max_model_len=4096, kv_cache_usage=0.254),
        WorkerState("w2", "m", capacity=8, running=0, draining=True),
        WorkerState("w3", "m", capacity=0, running=0, not_ready="no server answers"),
    ]
    _, first, second, third = lines(tables.workers(states))
    assert first.split() == ["w1", "m", "3/64", "25%", "4096", "ready"]
    assert second.split() == ["w2", "m", "0/8", "-", "-", "draining"]
    assert third.split() == ["w3", "m", "0/0", "-", "-", "not", "ready"]


def test_replayed_letter_says_where_it_went() -> None:
    new = new_channel_id(MODEL)
    shown = lines(tables.dead_letter(replace(LETTER, replayed_as=new, request_bytes=0)))
    assert any(line.split()[-1] == new for line in shown)
    assert any(line.split() == ["request", "deleted"] for line in shown)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (86_399, "23h59m"),
        (400_000, "4d15h"),
    ],
)
def test_duration_has_two_units_at_most(seconds: float | None, words: str) -> None:
    assert tables.duration(seconds) == words
