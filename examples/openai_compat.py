"""What an OpenAI-compatible server gives to the official client: 68 calls, and the shape of each answer.

    .venv/bin/python examples/openai_compat.py http://127.0.0.1:8080 --key KEY --model relais-demo
    .venv/bin/python examples/openai_compat.py http://127.0.0.1:8080 --against http://127.0.0.1:8000  # `vllm serve`

A shape is what a program may rely on: fields and their types, the order of a stream's chunks, statuses, classes and
fields of errors. A field that is null counts as one that is not there: the client gives None for both. With
`--against`, only what differs between the two is printed. It needs the package `openai`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import openai

Shape = frozenset[str]
ANSWERED = "answered"
OBJECT = ": object"
TOLD_VALUES = frozenset(("object", "role", "finish_reason"))


@dataclass(frozen=True, slots=True)
class Session:
    """A client, and the model that it asks for."""

    client: openai.OpenAI
    model: str

    def chat(self, content: Any = "Merci pour votre accueil.", **fields: Any) -> Shape:
        """The shape of a chat's answer, streamed or whole."""
        asked = {"temperature": 0, "max_tokens": 12, "messages": [user(content)], **fields}
        return shape_of(self.client.chat.completions.create(model=self.model, **asked))

    def tools(self, choice: Any, **fields: Any) -> Shape:
        """The shape of a chat's answer that has to call a tool."""
        asked = {"tools": [TOOL], "tool_choice": choice, "max_tokens": 60, **fields}
        return self.chat(**asked)

    def text(self, prompt: Any = "Bonjour", **fields: Any) -> Shape:
        """The shape of a completion's answer, streamed or whole."""
        asked = {"temperature": 0, "max_tokens": 12, **fields}
        return shape_of(self.client.completions.create(model=self.model, prompt=prompt, **asked))


def user(content: Any) -> dict[str, Any]:
    """A turn of the user's."""
    return {"role": "user", "content": content}


SCHEMA = {"type": "object", "properties": {"mark": {"enum": [1, 2, 3]}}, "required": ["mark"]}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "mark", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
STRICT = {"type": "function", "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]
NAMED = {"type": "function", "function": {"name": "f"}}
CALLED = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
USED_TOOL = [
    user("What is the mark?"),
    {"role": "assistant", "tool_calls": [CALLED]},
    {"role": "tool", "tool_call_id": "call_1", "content": "3"},
]
BEGUN = [user("What is the mark?"), {"role": "assistant", "content": "The mark"}]
CONTINUE = {"add_generation_prompt": False, "continue_final_message": True}
WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
EXTRA = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 2, "ignore_eos": True}

CALLS: dict[str, Callable[[Session], Shape]] = {
    "models": lambda one: shape_of(one.client.models.list().to_dict()),
    "model": lambda one: shape_of(one.client.models.retrieve(one.model)),
    "model-unknown": lambda one: shape_of(one.client.models.retrieve("nobody-s")),
    "chat": lambda one: one.chat(),
    "chat-stream": lambda one: one.chat(stream=True),
    "chat-stream-usage": lambda one: one.chat(**WITH_USAGE),
    "chat-parts": lambda one: one.chat([{"type": "text", "text": "Merci."}]),
    "chat-turns": lambda one: one.chat(messages=[{"role": "system", "content": "x"}, user("y")]),
    "chat-max-completion-tokens": lambda one: one.chat(max_tokens=None, max_completion_tokens=5),
    "chat-stop": lambda one: one.chat(stop=["e"], max_tokens=50),
    "chat-seed": lambda one: one.chat(temperature=0.8, seed=7, top_p=0.9),
    "chat-penalties": lambda one: one.chat(presence_penalty=0.5, frequency_penalty=0.5),
    "chat-logit-bias": lambda one: one.chat(logit_bias={"5": -100}),
    "chat-logprobs": lambda one: one.chat(logprobs=True, top_logprobs=2),
    "chat-logprobs-stream": lambda one: one.chat(logprobs=True, stream=True),
    "chat-json-object": lambda one: one.chat(response_format={"type": "json_object"}),
    "chat-json-schema": lambda one: one.chat(response_format=JSON_SCHEMA, max_tokens=30),
    "chat-extra-body": lambda one: one.chat(user="me", extra_body=EXTRA),
    "chat-two-answers": lambda one: one.chat(n=2, temperature=0.8),
    "chat-two-answers-stream": lambda one: one.chat(n=2, temperature=0.8, **WITH_USAGE),
    "chat-two-answers-logprobs": lambda one: one.chat(
        n=2, temperature=0.8, logprobs=True, top_logprobs=1
    ),
    "chat-no-answer": lambda one: one.chat(n=0),
    "chat-continue": lambda one: one.chat(messages=BEGUN, extra_body=CONTINUE),
    "chat-continue-echo": lambda one: one.chat(
        messages=BEGUN, extra_body={**CONTINUE, "echo": True}
    ),
    "chat-continue-and-begin": lambda one: one.chat(
        messages=BEGUN, extra_body={**CONTINUE, "add_generation_prompt": True}
    ),
    "chat-documents": lambda one: one.chat(extra_body={"documents": [{"title": "t", "text": "x"}]}),
    "chat-prompt-logprobs": lambda one: one.chat(extra_body={"prompt_logprobs": 1}),
    "chat-prompt-logprobs-stream": lambda one: one.chat(
        stream=True, extra_body={"prompt_logprobs": 1}
    ),
    "chat-token-ids": lambda one: one.chat(extra_body={"return_token_ids": True}),
    "chat-token-ids-stream": lambda one: one.chat(
        stream=True, extra_body={"return_token_ids": True}
    ),
    "chat-tokens-as-ids": lambda one: one.chat(
        logprobs=True, extra_body={"return_tokens_as_token_ids": True}
    ),
    "chat-truncated": lambda one: one.chat(extra_body={"truncate_prompt_tokens": 5}),
    "chat-special-tokens": lambda one: one.chat(extra_body={"add_special_tokens": True}),
    "chat-tools": lambda one: one.chat(tools=[TOOL]),
    "chat-tools-stream": lambda one: one.chat(tools=[TOOL], stream=True),
    "chat-tools-none": lambda one: one.chat(tools=[TOOL], tool_choice="none"),
    "chat-tools-strict": lambda one: one.chat(tools=[STRICT], tool_choice="none"),
    "chat-required": lambda one: one.tools("required"),
    "chat-required-stream": lambda one: one.tools("required", **WITH_USAGE),
    "chat-required-twice": lambda one: one.tools("required", n=2, temperature=0.8),
    "chat-required-one": lambda one: one.tools("required", parallel_tool_calls=False),
    "chat-required-cut": lambda one: one.tools("required", max_tokens=8),
    "chat-named": lambda one: one.tools(NAMED),
    "chat-named-stream": lambda one: one.tools(NAMED, stream=True),
    "chat-tool-result": lambda one: one.chat(messages=USED_TOOL, tools=[TOOL]),
    "chat-tool-unknown": lambda one: one.tools({**NAMED, "function": {"name": "g"}}),
    "chat-required-without-tools": lambda one: one.chat(tool_choice="required"),
    "chat-tool-without-name": lambda one: one.chat(
        tools=[{"type": "function", "function": {"description": "x"}}]
    ),
    "chat-reasoning-effort": lambda one: one.chat(reasoning_effort="low"),
    "chat-reasoning-left-out": lambda one: one.chat(extra_body={"include_reasoning": False}),
    "chat-reasoning-back": lambda one: one.chat(
        messages=[user("a"), {"role": "assistant", "content": "b", "reasoning": "c"}, user("d")]
    ),
    "chat-model-unknown": lambda one: Session(one.client, "nobody-s").chat(),
    "chat-no-messages": lambda one: one.chat(messages=[]),
    "chat-temperature-9": lambda one: one.chat(temperature=9),
    "chat-field-unknown": lambda one: one.chat(extra_body={"no_such_field": 1}),
    "chat-prompt-too-long": lambda one: one.chat("mot " * 5000),
    "chat-max-tokens-too-large": lambda one: one.chat(max_tokens=100_000, stream=True),
    "text": lambda one: one.text(),
    "text-token-ids": lambda one: one.text([5, 6, 7]),
    "text-stream-usage": lambda one: one.text(**WITH_USAGE),
    "text-logprobs": lambda one: one.text(["Bonjour"], logprobs=2),
    "text-two-prompts": lambda one: one.text(["Bonjour", "Merci"], n=2, temperature=0.8),
    "text-two-prompts-stream": lambda one: one.text([[5, 6], [7, 8]], **WITH_USAGE),
    "text-echo": lambda one: one.text(echo=True, logprobs=1),
    "text-echo-alone": lambda one: one.text(echo=True, logprobs=0, max_tokens=0),
    "text-echo-of-ids": lambda one: one.text([5, 6, 7], echo=True, stream=True),
    "text-token-ids-told": lambda one: one.text(extra_body={"return_token_ids": True}),
    "text-truncated": lambda one: one.text("mot " * 5000, extra_body={"truncate_prompt_tokens": 9}),
}


def shape_of(answer: Any) -> Shape:
    """Of an object of the client's, of a stream of them, or of plain JSON."""
    if isinstance(answer, openai.Stream):
        return _shape_of_stream(chunk.to_dict(mode="json") for chunk in answer)
    return frozenset(_lines(answer.to_dict() if hasattr(answer, "to_dict") else answer))


def _shape_of_stream(chunks: Iterable[dict[str, Any]]) -> Shape:
    lines: set[str] = set()
    # Answers come interleaved, and what is for none of them is for all.
    orders: dict[int, list[str]] = {}
    for chunk in chunks:
        lines.update(_lines(chunk))
        choices = chunk.get("choices") or [{"index": index} for index in orders]
        for choice in choices:
            order = orders.setdefault(choice["index"], [])
            brought = _brought(chunk, choice)
            if brought and order[-1:] != [brought]:
                order.append(brought)
    return frozenset((*lines, *(f"chunks: {', '.join(order)}" for order in orders.values())))


def _brought(chunk: dict[str, Any], choice: dict[str, Any]) -> str:
    """What a chunk is for."""
    delta = choice.get("delta") or {}
    brought = {
        "role": delta.get("role"),
        "text": choice.get("text") or delta.get("content"),
        "reasoning": delta.get("reasoning"),
        "tool_calls": delta.get("tool_calls"),
        "finish_reason": choice.get("finish_reason"),
        "usage": chunk.get("usage"),
    }
    return "+".join(name for name, value in brought.items() if value)


def _lines(value: Any, path: str = "") -> Iterator[str]:
    """`path: type` of all that is not null; of some fields, whose values are part of the shape, `path = value`."""
    if isinstance(value, dict):
        if path:
            yield f"{path}{OBJECT}"
        for name, inner in value.items():
            # Tokens are keys in a completion's top_logprobs, and their ids in what is told of a prompt.
            of_token = path.endswith(".top_logprobs[]") and inner.__class__ is float
            name = "*" if of_token or path.endswith("prompt_logprobs[]") else name
            yield from _lines(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        yield f"{path}: list"
        for inner in value:
            yield from _lines(inner, f"{path}[]")
    elif value is not None:
        name = path.rpartition(".")[2]
        kind = "number" if isinstance(value, int | float) and value is not True else None
        yield (
            f"{path} = {value}"
            if name in TOLD_VALUES
            else f"{path}: {kind or type(value).__name__}"
        )


def ask(session: Session, call: Callable[[Session], Shape]) -> Shape:
    """The shape of one call's answer, or of the error that it raises."""
    try:
        return call(session) | {ANSWERED}
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        return frozenset(
            (
                f"{type(error).__name__} {error.status_code}",
                f"error.type = {body.get('type')}",
                f"error.code: {type(body.get('code')).__name__}",
                f"error.param = {body.get('param')}",
            )
        )


def shapes(url: str, model: str, key: str) -> dict[str, Shape]:
    """Every call's, by its name."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120) as client:
        session = Session(client, model)
        return {name: ask(session, call) for name, call in CALLS.items()}


def differences(first: dict[str, Shape], second: dict[str, Shape]) -> dict[str, list[str]]:
    """What only one of them has (`-` the first, `+` the second), and at which calls.

    Of a call that one answers and the other refuses, that alone; of an object that only one has, the object alone.
    """
    found: dict[str, list[str]] = {}
    for name in CALLS:
        for sign, only in (("-", first[name] - second[name]), ("+", second[name] - first[name])):
            outcomes = {line for line in only if line == ANSWERED or line[-3:].isdigit()}
            objects = tuple(f"{line[: -len(OBJECT)]}." for line in only if line.endswith(OBJECT))
            for line in sorted(outcomes or only):
                if line.startswith(objects):
                    continue
                # What is said of one call only goes with its name.
                of_call = line in outcomes or line.startswith("error.param")
                shown = f"{sign} {name}: {line}" if of_call else f"{sign} {line}"
                found.setdefault(shown, []).append(name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url", help="of a server, without /v1")
    parser.add_argument("--against", metavar="URL", help="of another one, to compare")
    parser.add_argument("--model", default="relais-demo")
    parser.add_argument("--key", default="any")
    arguments = parser.parse_args()
    here = shapes(arguments.url, arguments.model, arguments.key)
    if arguments.against is None:
        for name, shape in here.items():
            print(name, *sorted(shape), sep="\n  ")
        return
    there = shapes(arguments.against, arguments.model, arguments.key)
    for line, names in differences(here, there).items():
        print(f"{line}  ({', '.join(names)})")


if __name__ == "__main__":
    main()
