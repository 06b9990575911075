"""vLLM keeps the contract of engines. One engine serves all of the file, whose last test kills it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from relais_llm_worker.app import open_engines
from relais_llm_worker.engine import Engine
from relais_llm_worker.settings import read_settings
from relais_testing.contracts.engine import EngineContract
from relais_testing.process_stack import VLLM_ON_CPU

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Its own warnings, at import and load.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vllm() -> AsyncIterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VLLM_ON_CPU.items():
            patch.setenv(name, value)
        async with open_engines(read_settings(VLLM_ON_CPU).engine, CollectorRegistry()) as engines:
            yield engines[0]


class TestVllm(EngineContract):
    @pytest.fixture
    def engine(self, vllm: Engine) -> Engine:
        return vllm
