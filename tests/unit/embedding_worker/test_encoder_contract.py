"""The deterministic encoder keeps the contract of encoders."""

from __future__ import annotations

import pytest

from relais_embedding_worker.encoder import Encoder
from relais_embedding_worker.encoder_deterministic import DeterministicEncoder
from relais_testing.contracts.encoder import EncoderContract


class TestDeterministicEncoder(EncoderContract):
    @pytest.fixture
    def encoder(self) -> Encoder:
        return DeterministicEncoder(max_tokens=64)
