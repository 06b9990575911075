"""A model in this process and one behind a server keep the contract of models."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from relais_llm_worker.engines.engine_deterministic import DeterministicEngine
from relais_llm_worker.engines.local import models_of
from relais_llm_worker.model import Model
from relais_testing.contracts.model import ModelContract
from relais_testing.fake_openai import open_fake_server
from relais_testing.remote import open_remote


class TestLocalModel(ModelContract):
    @pytest.fixture
    def model(self) -> Model:
        engine = DeterministicEngine("m", max_model_len=512, max_num_seqs=4, tokens_per_s=0)
        return models_of([engine], max_output_tokens=100, kv_cache_threshold=0.9)[0]


class TestRemoteModel(ModelContract):
    @pytest.fixture
    async def model(self) -> AsyncIterator[Model]:
        async with open_fake_server(vllm=True) as server, open_remote(server) as model:
            yield model
