"""Images at real vLLM: a tiny vision model answers as under `vllm serve`, and goes on after its worker's death."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import openai
import pytest

from relais_testing.process_stack import (
    MODEL,
    MORTAL,
    VLLM_ON_CPU,
    Starter,
    make_starter,
    make_vllm_starter,
)
from relais_testing.tiny_vision import make_vision_model, picture
from relais_testing.valkey import ValkeyServer

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True, slots=True)
class Stack:
    relais: openai.OpenAI
    vllm: openai.OpenAI


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vision_model(tmp_path_factory.mktemp("models") / "vision")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Stack]:
    with (
        ValkeyServer(tmp_path_factory.mktemp("redis")) as redis,
        ExitStack() as processes,
    ):
        start = make_starter(processes, redis, tmp_path_factory.mktemp("logs"))
        start("llm_worker", **VLLM_ON_CPU | {"VLLM_HF_REPO_ID": str(model)})
        front = start("orchestrator")
        start_vllm = make_vllm_starter(processes, tmp_path_factory.mktemp("vllm-logs"), model)
        vllm = start_vllm()
        with (
            openai.OpenAI(base_url=f"{front.url}/v1", api_key="any", max_retries=0) as ours,
            openai.OpenAI(base_url=f"{vllm.url}/v1", api_key="any", max_retries=0) as theirs,
        ):
            yield Stack(ours, theirs)


def part(image: bytes, form: str = "png") -> dict[str, Any]:
    data = base64.b64encode(image).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{form};base64,{data}"}}


def asked(*parts: dict[str, Any], text: str = "Merci beaucoup.", **fields: Any) -> Any:
    content = [{"type": "text", "text": text}, *parts]
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 30,
        **fields,
    }


ONE, TWO = part(picture(1)), part(picture(2))
CHATS = {
    "none": asked(),
    "one": asked(ONE),
    "two": asked(ONE, TWO),
    "two the other way": asked(TWO, ONE),
    "the same again": asked(ONE, ONE),
    **{form: asked(part(picture(3, form=form.upper()), form)) for form in ("jpeg", "gif", "webp")},
    "first in the message": {
        **asked(),
        "messages": [{"role": "user", "content": [ONE, {"type": "text", "text": "hello"}]}],
    },
    "tokens told": asked(TWO, logprobs=True, top_logprobs=2, max_tokens=5),
}


@pytest.mark.parametrize("name", CHATS)
def test_answers_are_those_of_vllm_serve(stack: Stack, name: str) -> None:
    ours, theirs = (
        client.chat.completions.create(**CHATS[name]) for client in (stack.relais, stack.vllm)
    )
    for mine, other in zip(ours.choices, theirs.choices, strict=True):
        assert mine.message.content == other.message.content
        assert mine.finish_reason == other.finish_reason
    assert ours.usage.prompt_tokens == theirs.usage.prompt_tokens
    assert ours.usage.completion_tokens == theirs.usage.completion_tokens


def test_images_change_the_answer(stack: Stack) -> None:
    # Random weights may say the same words to anything: what they make of them is compared.
    first = []
    for name in ("none", "one", "two", "two the other way"):
        body = {**CHATS[name], "logprobs": True, "max_tokens": 1}
        told = stack.relais.chat.completions.create(**body).choices[0].logprobs
        first.append(told.content[0].logprob)
    assert len({round(logprob, 4) for logprob in first}) == len(first)


@pytest.mark.parametrize(
    ("image", "param"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(90), "messages.0.content.1"),
        (picture(1)[:200], "messages"),
        (b"GIF89a\xff\xff\xff\xff" + bytes(20), None),
    ],
)
def test_an_image_that_cannot_be_read_is_a_400(
    stack: Stack, image: bytes, param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        stack.relais.chat.completions.create(**asked(part(image)))
    assert refused.value.param == param or param is None
    assert "BytesIO" not in refused.value.message
    assert stack.relais.chat.completions.create(**CHATS["one"]).choices


def test_a_prompt_with_images_that_is_too_long_says_so(stack: Stack) -> None:
    body = asked(ONE, text="é" * 5000)
    with pytest.raises(openai.BadRequestError) as refused:
        stack.relais.chat.completions.create(**body)
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize("fields", [{}, {"frequency_penalty": 0.2}])
def test_stream_cut_in_the_middle_goes_on_to_the_letter(
    start: Starter, model: Path, fields: dict[str, Any]
) -> None:
    settings = {**VLLM_ON_CPU, "VLLM_HF_REPO_ID": str(model)}
    front, worker = start("orchestrator"), start("llm_worker", **settings | MORTAL)
    body = asked(ONE, TWO, max_tokens=200, extra_body={"ignore_eos": True}, **fields)
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="any", max_retries=0) as client:
        whole = client.chat.completions.create(**body).choices[0].message.content
        stream = client.chat.completions.create(**body, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in islice(stream, 5)]
        worker.kill()
        start("llm_worker", **settings)
        pieces += [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == whole
