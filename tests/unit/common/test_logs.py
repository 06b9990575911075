"""Log lines: one JSON object each, with the channel id, once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import structlog

from relais_common.runtime.logs import channel_context, setup_logs


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_line_is_json_with_service_level_time_and_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    setup_logs("orchestrator")
    structlog.get_logger("x").info("job_taken", tail=3, text="é\n")
    (line,) = lines(capsys)
    assert line["event"] == "job_taken"
    assert (line["service"], line["level"]) == ("orchestrator", "info")
    assert (line["tail"], line["text"]) == (3, "é\n")
    assert line["timestamp"].endswith(("Z", "+00:00"))


def test_channel_id_is_on_every_line_inside_the_context_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    setup_logs("worker")
    with channel_context("m.abc"):
        structlog.get_logger("x").info("inside")
        logging.getLogger("library").warning("from the standard library")
    structlog.get_logger("x").info("outside")
    assert [line.get("channel_id") for line in lines(capsys)] == ["m.abc", "m.abc", None]


def test_setting_up_twice_does_not_double_lines(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logs("worker")
    setup_logs("worker")
    structlog.get_logger("x").info("once")
    logging.getLogger("library").warning("once as well")
    assert [line["event"] for line in lines(capsys)] == ["once", "once as well"]


def test_standard_library_lines_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logs("worker")
    logging.getLogger("library").warning("%d of %d", 1, 2)
    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["service"]) == ("1 of 2", "warning", "worker")


def test_exception_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logs("worker")
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger("x").exception("failed")
        logging.getLogger("library").exception("failed too")
    one, two = lines(capsys)
    assert "ValueError: boom" in one["exception"]
    assert "ValueError: boom" in two["exception"]


def test_values_json_does_not_know_are_written_somehow(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logs("worker")
    structlog.get_logger("x").info("odd", value=object(), raw=b"bytes")
    (line,) = lines(capsys)
    assert line["raw"] == "b'bytes'"


@pytest.mark.parametrize(
    ("level", "events"), [("debug", ["d", "i", "w"]), ("info", ["i", "w"]), ("warning", ["w"])]
)
def test_level_holds_for_both_kinds_of_logger(
    capsys: pytest.CaptureFixture[str], level: str, events: list[str]
) -> None:
    setup_logs("worker", level=level)
    log, library = structlog.get_logger("x"), logging.getLogger("library")
    for write in (log, library):
        write.debug("d")
        write.info("i")
        write.warning("w")
    assert [line["event"] for line in lines(capsys)] == events * 2


def test_console_form_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logs("worker", form="console")
    structlog.get_logger("x").info("hello", tail=3)
    assert "hello" in capsys.readouterr().out


def test_a_client_s_text_does_not_control_a_console(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logs("orchestrator", form="console")
    structlog.get_logger("x").info(
        "request_refused", path="/v1/\x1b]0;title\x07\x9bé", param="a\nb"
    )
    logging.getLogger("library").warning("no \x1b[2J")
    shown = capsys.readouterr().out
    for escaped in (r"\x1b]0;title\x07\x9bé", r"'a\nb'", r"\x1b[2J"):
        assert escaped in shown
    assert not {"\x9b", "\x07"} & set(shown)
    assert "\x1b]" not in shown
