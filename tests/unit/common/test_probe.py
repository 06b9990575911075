"""The images' HEALTHCHECK."""

from __future__ import annotations

import asyncio
import socket

import pytest
from prometheus_client import CollectorRegistry

from relais_common.runtime.health import open_health_server
from relais_common.runtime.probe import probe


@pytest.mark.parametrize(("reason", "code"), [(None, 0), ("the model is loading", 1)])
async def test_it_is_as_well_as_the_service_says(reason: str | None, code: int) -> None:
    async def ready() -> str | None:
        return reason

    async with open_health_server("127.0.0.1", 0, ready, CollectorRegistry()) as port:
        found, said = await asyncio.to_thread(probe, ["HEALTH_PORT"], {"HEALTH_PORT": str(port)})

    assert found == code
    assert reason is None or reason in said


def test_nobody_listens() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # and does not listen, so that nobody else takes the port
        port = str(listener.getsockname()[1])
        assert probe(["API_PORT"], {"API_PORT": port})[0] == 1


@pytest.mark.parametrize("arguments", [[], ["API_PORT"], ["A", "B"]])
def test_a_wrong_use_is_told(arguments: list[str]) -> None:
    code, said = probe(arguments, {})
    assert code == 2
    assert said.startswith("usage:")
