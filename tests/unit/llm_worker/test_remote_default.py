"""A worker that serves the default table says so once, and whether its server answers."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp.test_utils import unused_port
from structlog.testing import capture_logs

from relais_common.config.server_table import TableEntry
from relais_llm_worker.remote import opening
from relais_testing.fake_openai import open_fake_server
from relais_testing.remote import NAME, open_table
from relais_testing.waiting import wait_until

Logs = list[MutableMapping[str, Any]]


@pytest.fixture
def logs() -> Iterator[Logs]:
    with capture_logs() as found:
        yield found


@contextmanager
def default_at(url: str) -> Iterator[TableEntry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "ALBERT_S_TABLE", f'[("{NAME}", "{url}")]')
        yield TableEntry(NAME, url)


def said(logs: Logs, event: str) -> Logs:
    return [one for one in logs if one["event"] == event]


async def test_default_whose_server_answers(logs: Logs) -> None:
    async with open_fake_server() as server:
        with default_at(server.url) as entry:
            async with open_table([entry]) as (model,):
                await wait_until(lambda: said(logs, "llm_table_default_used"))
                assert model.status().not_ready is None
    (line,) = said(logs, "llm_table_default_used")
    assert (line["model"], line["url"]) == (NAME, server.url)
    assert (line["answers"], line["reason"]) == (True, None)


async def test_default_without_a_server(logs: Logs) -> None:
    with default_at(f"http://127.0.0.1:{unused_port()}") as entry:
        async with open_table([entry]) as (model,):
            await wait_until(lambda: said(logs, "llm_table_default_used"))
            # What `/v1/models` goes by.
            assert model.status().capacity == 0
            assert model.status().not_ready is not None
    (line,) = said(logs, "llm_table_default_used")
    assert line["answers"] is False
    assert line["reason"]


async def test_table_of_the_deployment_s_own_says_nothing_of_a_default(logs: Logs) -> None:
    with default_at("http://127.0.0.1:1"):
        url = f"http://127.0.0.1:{unused_port()}"
        async with open_table([TableEntry(NAME, url)]):
            # A server that never answered is reported, too, and once.
            await wait_until(lambda: said(logs, "server_down"))
            await wait_until(lambda: len(logs) >= 1)
    assert said(logs, "llm_table_default_used") == []
    assert len(said(logs, "server_down")) == 1
