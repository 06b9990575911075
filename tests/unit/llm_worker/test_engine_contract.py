"""The deterministic engine keeps the contract of engines."""

from __future__ import annotations

import pytest

from relais_llm_worker.engine import Engine
from relais_llm_worker.engines.engine_deterministic import DeterministicEngine
from relais_testing.contracts.engine import EngineContract


class TestDeterministicEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return DeterministicEngine("m", max_model_len=512, max_num_seqs=4, tokens_per_s=0)
