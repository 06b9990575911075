"""The demo model's examples with tools and thoughts: calls fit what is offered, and render as servers render them."""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import jsonschema
import pytest

from demo_model import dataset
from demo_model.examples import Example
from demo_model.noise import folded

FOLDER = Path(__file__).parents[3] / "models" / "relais-demo"
CALL = re.compile(r"<tool_call>\n(.*)\n</tool_call>", re.DOTALL)


@cache
def chat_template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=False)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string((FOLDER / "chat_template.jinja").read_text("utf-8"))


def rendered(messages: tuple[dict[str, Any], ...], **variables: Any) -> str:
    return chat_template().render(messages=messages, bos_token="<|begin|>", **variables)


def without_thought(example: Example) -> str:
    return re.sub(r"^<think>.*</think>", "", example.answer, flags=re.DOTALL)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(islice(dataset.stream("train", 0, dataset.further_recipes), 3000))


@pytest.fixture(scope="module")
def calls(examples: list[Example]) -> list[Example]:
    return [example for example in examples if example.task == "call"]


def test_a_call_is_one_of_a_tool_that_is_offered_and_fits_it(calls: list[Example]) -> None:
    assert len(calls) > 300
    for example in calls:
        found = CALL.fullmatch(without_thought(example))
        assert found is not None, example.answer
        call = json.loads(found[1])
        offered = {one["function"]["name"]: one["function"] for one in example.tools}
        assert len(offered) == len(example.tools)
        jsonschema.validate(call["arguments"], offered[call["name"]]["parameters"])
        assert call["arguments"].keys() == offered[call["name"]]["parameters"]["properties"].keys()


def test_a_call_renders_as_the_model_writes_it(calls: list[Example]) -> None:
    for example in calls:
        text = without_thought(example)
        found = CALL.fullmatch(text)
        assert found is not None
        call = {"id": "c", "type": "function", "function": json.loads(found[1])}
        turn = {"role": "assistant", "content": None, "tool_calls": [call]}
        assert rendered((turn,)) == f"<|begin|><|assistant|>{text}<|end|>"


def test_answers_repeat_what_tools_found(examples: list[Example]) -> None:
    answers = [example for example in examples if example.task == "result"]
    assert len(answers) > 100
    for example in answers:
        result = str(example.messages[-2]["content"])
        if result.startswith("{"):
            result = str(next(iter(json.loads(result).values())))
        if result not in (
            "not found",
            "nothing found",
            "unknown",
            "non trouvé",
            "rien trouvé",
            "inconnu",
        ):
            assert folded(result) in folded(example.answer)


def test_thoughts_stand_where_they_are_asked_for_and_nowhere_else(examples: list[Example]) -> None:
    assert 0.1 < sum(example.thinking for example in examples) / len(examples) < 0.3
    for example in examples:
        assert example.thinking == example.answer.startswith("<think>")
        assert without_thought(example)
        assert "think>" not in without_thought(example)


def test_no_slot_is_left_unfilled(examples: list[Example]) -> None:
    slots = re.compile(r"\{\w+\}|\[\w+\|")
    assert not [one for one in examples if any(slots.search(m["content"]) for m in one.messages)]


def test_the_second_pass_sees_no_prompt_of_the_held_out_sets() -> None:
    held_out = [
        *dataset.held_out("templates", 0, 100, dataset.tool_recipes),
        *dataset.held_out("templates", 0, 100, dataset.thinking_recipes),
    ]
    seen = dataset.training(0, 2000, held_out, dataset.further_recipes)
    unseen = {dataset.prompt_key(example) for example in held_out}
    assert unseen.isdisjoint(dataset.prompt_key(example) for example in seen)


def test_tools_results_and_thinking_render() -> None:
    tool = {"name": "add", "description": "Adds.", "parameters": {"properties": {"a": {}, "b": {}}}}
    messages: tuple[dict[str, Any], ...] = (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "2 + 2"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "add", "arguments": {"a": 2, "b": 2}}}],
        },
        {"role": "tool", "content": "4"},
    )
    bare = {"function": {"name": "clock", "description": None, "parameters": None}}
    text = rendered(
        messages, tools=[{"function": tool}, bare], add_generation_prompt=True, enable_thinking=True
    )
    assert text == (
        "<|begin|><|system|>Be kind.\nTools:\nadd(a, b): Adds.\nclock(): <|end|><|user|>2 + 2<|end|>"
        '<|assistant|><tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call><|end|>'
        "<|user|><tool_response>\n4\n</tool_response><|end|><|system|>Think first.<|end|><|assistant|>"
    )
