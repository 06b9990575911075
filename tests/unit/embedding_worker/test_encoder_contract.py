"""The deterministic encoder keeps the contract of encoders, and the tests' other models theirs."""

from __future__ import annotations

import pytest

from relais_embedding_worker.encoder import Classifier, Encoder, Reranker
from relais_embedding_worker.encoder_deterministic import DeterministicEncoder
from relais_testing.contracts.encoder import (
    ClassifierContract,
    EncoderContract,
    RerankerContract,
)
from relais_testing.encoders import WatchedClassifier, WatchedReranker


class TestDeterministicEncoder(EncoderContract):
    @pytest.fixture
    def encoder(self) -> Encoder:
        return DeterministicEncoder(max_tokens=64)


class TestWatchedReranker(RerankerContract):
    @pytest.fixture
    def encoder(self) -> Reranker:
        return WatchedReranker()


class TestWatchedClassifier(ClassifierContract):
    @pytest.fixture
    def encoder(self) -> Classifier:
        return WatchedClassifier()
