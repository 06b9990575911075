"""The first request that `bootstrap.sh` makes to an embedding worker's model, at an API."""

from __future__ import annotations

import asyncio
import re

import pytest

from relais_testing.embedding_worker import open_embedding_worker
from relais_testing.encoders import WatchedClassifier, WatchedEncoder, WatchedReranker
from relais_testing.stack import Stack
from stack.first_request import OTHERS, compare
from stack.model import LOOPBACK, Program, Run, Stage


@pytest.mark.parametrize(
    ("setting", "encoder", "said", "shown"),
    [
        ("EMBEDDING_MODELS", WatchedEncoder, r"-?\d\.\d\d", "cosine"),
        ("RERANK_MODELS", WatchedReranker, r"-?\d\.\d\d", "cross_encoder"),
        ("CLASSIFY_MODELS", WatchedClassifier, "praise|complaint|question", "classes"),
    ],
)
async def test_model_of_each_kind_is_asked_what_it_answers(
    stack: Stack,
    redis_url: str,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    encoder: type[WatchedEncoder],
    said: str,
    shown: str,
) -> None:
    front = await stack.front(**{setting: "org/model"})
    api = Program("orchestrator", "", Stage.ORCHESTRATOR, LOOPBACK, front.port, "API_PORT")
    run = Run(
        *("id", "", "", "", "m", (front.url,), (api,)),
        embedding_model="org/model",
        embedding_setting=setting,
    )
    async with open_embedding_worker(redis_url, model="org/model", encoder=encoder()):
        await asyncio.to_thread(compare, run, api)

    printed = capsys.readouterr().out
    for text in OTHERS:
        assert re.search(rf"^ +({said})  {re.escape(text)}$", printed, re.MULTILINE), printed
    assert f"(scores: {shown}, " in printed
