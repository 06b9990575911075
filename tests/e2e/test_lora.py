"""LoRA adapters are models of their own, served by the worker of their base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from relais_testing.process_stack import MODEL, VLLM_ON_CPU, make_starter, make_vllm_starter
from relais_testing.tiny_lora import make_adapter
from relais_testing.valkey import ValkeyServer

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

ADAPTERS = ("demo-one", "demo-two")
MODELS = (MODEL, *ADAPTERS)
ALL, ONE = "k" * 40, "o" * 40


@dataclass(frozen=True, slots=True)
class Stack:
    relais: openai.OpenAI
    vllm: openai.OpenAI


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("adapters")
    modules = [f"{name}={make_adapter(folder / name, seed)}" for seed, name in enumerate(ADAPTERS)]
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"all": ALL, "one": {"key": ONE, "models": [ADAPTERS[0]]}}))
    with (
        ValkeyServer(tmp_path_factory.mktemp("redis")) as redis,
        ExitStack() as processes,
    ):
        start = make_starter(processes, redis, tmp_path_factory.mktemp("logs"))
        start("llm_worker", **VLLM_ON_CPU, VLLM_ENGINE_ARGS=f"--lora-modules {' '.join(modules)}")
        front = start("orchestrator", ENV="prod", API_KEYS=str(keys), MODELS=",".join(MODELS))
        start_vllm = make_vllm_starter(processes, tmp_path_factory.mktemp("vllm-logs"))
        vllm = start_vllm("--enable-lora", "--max-loras", "2", "--lora-modules", *modules)
        with (
            openai.OpenAI(base_url=f"{front.url}/v1", api_key=ALL, max_retries=0) as ours,
            openai.OpenAI(base_url=f"{vllm.url}/v1", api_key="any", max_retries=0) as theirs,
        ):
            yield Stack(ours, theirs)


def _answer(client: openai.OpenAI, model: str, **fields: Any) -> str:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "The waiting time at the town hall is too long."}],
        temperature=0,
        max_tokens=40,
        **fields,
    )
    assert answer.model == model
    return answer.choices[0].message.content or ""


def test_each_answers_as_with_vllm_serve(stack: Stack) -> None:
    ours = [_answer(stack.relais, model) for model in MODELS]
    assert ours == [_answer(stack.vllm, model) for model in MODELS]
    assert len(set(ours)) == len(MODELS)


def test_base_answers_alike_beside_requests_of_an_adapter(stack: Stack) -> None:
    """vLLM's CPU build gives rows without an adapter the one in its last slot."""
    alone = _answer(stack.relais, MODEL)
    with stack.relais.completions.create(
        model=ADAPTERS[1], prompt="a", max_tokens=400, stream=True, extra_body={"ignore_eos": True}
    ) as stream:
        chunks = iter(stream)
        next(chunks)
        beside = _answer(stack.relais, MODEL)
        assert next(chunks).choices[0].finish_reason is None
    assert beside == alone


def test_log_probabilities_of_a_prompt_are_refused_on_a_cpu(stack: Stack) -> None:
    """vLLM's CPU build would end."""
    with pytest.raises(openai.BadRequestError) as refused:
        _answer(stack.relais, MODEL, extra_body={"prompt_logprobs": 0})
    assert refused.value.param == "prompt_logprobs"


def test_adapters_are_listed_with_their_parent(stack: Stack) -> None:
    def parents(client: openai.OpenAI) -> dict[str, Any]:
        return {one.id: (one.model_extra or {})["parent"] for one in client.models.list()}

    assert parents(stack.relais) == {MODEL: None, ADAPTERS[0]: MODEL, ADAPTERS[1]: MODEL}
    assert parents(stack.relais) == parents(stack.vllm)


def test_key_of_an_adapter_has_neither_its_base_nor_its_siblings(stack: Stack) -> None:
    with stack.relais.with_options(api_key=ONE) as client:
        assert [one.id for one in client.models.list()] == [ADAPTERS[0]]
        assert _answer(client, ADAPTERS[0]) == _answer(stack.relais, ADAPTERS[0])
        for model in (MODEL, ADAPTERS[1]):
            with pytest.raises(openai.NotFoundError):
                _answer(client, model)
