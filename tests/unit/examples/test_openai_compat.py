"""What counts as an answer's shape, and as a difference between two."""

from __future__ import annotations

from openai_compat import ANSWERED, CALLS, Shape, differences, shape_of


def answers(**shapes: list[str]) -> dict[str, Shape]:
    """Every call answered, with nothing but what is given here."""
    return {name: frozenset(shapes.get(name, [ANSWERED])) for name in CALLS}


def test_a_shape_is_types_and_some_values_and_nothing_that_is_null() -> None:
    answer = {
        "object": "x",
        "id": "1",
        "created": 5,
        "nothing": None,
        "choices": [{"index": 0, "done": True}, {"logprobs": {"top_logprobs": [{"un": -0.5}]}}],
    }
    assert shape_of(answer) == {
        "object = x",
        "id: str",
        "created: number",
        "choices: list",
        "choices[]: object",
        "choices[].index: number",
        "choices[].done: bool",
        "choices[].logprobs: object",
        "choices[].logprobs.top_logprobs: list",
        "choices[].logprobs.top_logprobs[]: object",
        "choices[].logprobs.top_logprobs[].*: number",
    }


def test_a_difference_is_told_once_with_the_calls_that_show_it() -> None:
    extra = [ANSWERED, "timings: object", "timings.queue_s: number"]
    assert differences(answers(chat=extra, text=extra), answers()) == {
        "- timings: object": ["chat", "text"]
    }


def test_of_a_call_that_one_refuses_nothing_else_is_told() -> None:
    refused = ["BadRequestError 400", "error.param = n"]
    assert differences(answers(chat=refused), answers(chat=[ANSWERED, "id: str"])) == {
        "- chat: BadRequestError 400": ["chat"],
        "+ chat: answered": ["chat"],
    }
