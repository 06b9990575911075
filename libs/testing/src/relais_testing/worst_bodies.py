"""The most expensive bodies to parse, for every route."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from relais_orchestrator.submission.reading import Reading

BYTES = 1 << 20

PATHS = {
    Reading.NATIVE: "/v1/requests",
    Reading.CHAT: "/v1/chat/completions",
    Reading.COMPLETION: "/v1/completions",
    Reading.EMBEDDINGS: "/v1/embeddings",
    Reading.RERANK: "/v1/rerank",
    Reading.SCORE: "/v1/score",
    Reading.COHERE_RERANK: "/v2/rerank",
    Reading.CLASSIFY: "/v1/classify",
    Reading.TOKENIZE: "/v1/tokenize",
    Reading.DETOKENIZE: "/v1/detokenize",
    Reading.MESSAGES: "/v1/messages",
    Reading.COUNT_TOKENS: "/v1/messages/count_tokens",
    Reading.RESPONSES: "/v1/responses",
    Reading.RESPONSES_INPUT_TOKENS: "/v1/responses/input_tokens",
}
_TEXTS = {"messages": b'[{"role":"user","content":"x"}]'}
_GOOD: dict[Reading, dict[str, bytes]] = {
    Reading.NATIVE: {"messages": _TEXTS["messages"]},
    Reading.CHAT: {"messages": _TEXTS["messages"]},
    Reading.COMPLETION: {"prompt": b'"x"'},
    Reading.EMBEDDINGS: {"input": b'"x"'},
    Reading.RERANK: {"query": b'"x"', "documents": b'["x"]'},
    Reading.SCORE: {"text_1": b'"x"', "text_2": b'["x"]'},
    Reading.COHERE_RERANK: {"query": b'"x"', "documents": b'["x"]'},
    Reading.CLASSIFY: {"input": b'"x"'},
    Reading.TOKENIZE: {"prompt": b'"x"'},
    Reading.DETOKENIZE: {"tokens": b"[1]"},
    Reading.MESSAGES: {"messages": _TEXTS["messages"], "max_tokens": b"1"},
    Reading.COUNT_TOKENS: {"messages": _TEXTS["messages"]},
    Reading.RESPONSES: {"input": b'"x"'},
    Reading.RESPONSES_INPUT_TOKENS: {"input": b'"x"'},
}
"""The least that each takes beside its model."""

_LONG: dict[Reading, tuple[str, ...]] = {
    Reading.NATIVE: ("messages", "prompt", "input", "params", "chat_template_kwargs"),
    Reading.CHAT: ("messages", "metadata", "logit_bias", "response_format", "structured_outputs"),
    Reading.COMPLETION: ("prompt", "stop", "logit_bias", "allowed_token_ids", "bad_words"),
    Reading.EMBEDDINGS: ("input", "model"),
    Reading.RERANK: ("documents", "query", "top_n"),
    Reading.SCORE: ("text_1", "text_2"),
    Reading.COHERE_RERANK: ("documents", "query", "top_n"),
    Reading.CLASSIFY: ("input", "truncate_prompt_tokens"),
    Reading.TOKENIZE: ("prompt", "messages", "tools"),
    Reading.DETOKENIZE: ("tokens",),
    Reading.MESSAGES: (
        "messages",
        "system",
        "tools",
        "stop_sequences",
        "metadata",
        "cache_control",
    ),
    Reading.COUNT_TOKENS: ("messages", "system", "tools"),
    Reading.RESPONSES: ("input", "tools", "include", "metadata", "text"),
    Reading.RESPONSES_INPUT_TOKENS: ("input", "tools"),
}
"""Fields that are tried with all values below."""

_ELEMENTS = {
    "ids": b"1",
    "ids of six digits": b"123456",
    "ids as fractions": b"1.0",
    "ids as powers": b"1e3",
    "fractions": b"1.5",
    "nulls": b"null",
    "empty texts": b'""',
    "objects": b"{}",
    "lists": b"[]",
    "lists of a fraction": b"[1.5]",
    "lists of ids": b"[" + b",".join([b"123456"] * 300) + b"]",
    "deep lists": b"[" * 90 + b"]" * 90,
    "parts": b'{"type":"text","text":"x"}',
    "parts of another type": b'{"type":"input_text","text":"x"}',
    "messages": b'{"role":"user","content":"x"}',
    "calls and results": b'{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{}}]},'
    b'{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":"x"}]}',
    "calls and outputs": b'{"type":"function_call","call_id":"a","name":"f","arguments":"{}"},'
    b'{"type":"function_call_output","call_id":"a","output":[{"type":"input_text","text":"x"}]}',
    "long messages": b'{"role":"user","content":"' + b"x" * 2020 + b'"}',
    "texts": b'"' + b"x" * 2045 + b'"',
    "huge numbers": b"9" * 4000,
}


def _filled(unit: bytes, length: int) -> bytes:
    return ((unit + b",") * (length // (len(unit) + 1)))[:-1]


@cache
def _members(number: int) -> bytes:
    return b",".join(b'"%d":1' % one for one in range(number))


def _values() -> Iterator[tuple[str, bytes]]:
    """Yield the most expensive values of a field."""
    space = BYTES - 300
    for name, unit in _ELEMENTS.items():
        yield f"list of {name}", b"[" + _filled(unit, space) + b"]"
    yield "one wrong at the end", b"[" + _filled(b"1", space - 10) + b',"x"]'
    yield "content of numbers", b'[{"role":"user","content":[' + _filled(b"1", space - 40) + b"]}]"
    yield (
        "content of other parts",
        b'[{"role":"user","content":['
        + _filled(b'{"type":"input_text","text":"x"}', space - 40)
        + b"]}]",
    )
    yield "text", b'"' + b"x" * space + b'"'
    yield "text of escapes", b'"' + rb"\n" * (space // 2) + b'"'
    yield "text in Unicode's escapes", b'"' + rb"\u00e9" * (space // 6) + b'"'
    yield "text of backslashes", b'"' + rb"\\" * (space // 2) + b'"'
    yield "text of brackets and commas", b'"' + b"[,{" * (space // 3) + b'"'
    yield "a number", b"9" * space
    names = _members(space // 10)
    yield "many members", b"{" + names + b"}"
    yield "one member many times", b"{" + _filled(b'"a":1', space) + b"}"
    yield "members of members", b'{"a":{' + names[: space - 20].rpartition(b",")[0] + b"}}"
    yield (
        "a giant schema",
        b'{"type":"json_schema","json_schema":{"name":"n","schema":{"enum":['
        + _filled(b"1", space - 80)
        + b"]}}}",
    )


def _body(fields: dict[str, bytes]) -> bytes:
    return (
        b"{" + b",".join(b'"%b":%b' % (name.encode(), one) for name, one in fields.items()) + b"}"
    )


def worst_bodies(route: Reading, model: str) -> Iterator[tuple[str, bytes]]:
    """Yield names and bodies, most of which are refused."""
    good = {"model": b'"%b"' % model.encode(), **_GOOD[route]}
    for field in _LONG[route]:
        for name, value in _values():
            yield f"{field}: {name}", _body(good | {field: value})
    yield "unknown fields", _body(good)[:-1] + b"," + _members(60_000) + b"}"
    yield "one field many times", b"{" + _filled(_body(good)[1:-1], BYTES - 10) + b"}"
    yield "nothing but quotes", b'"' * BYTES
    yield "nothing but brackets", b"[" * BYTES
    yield "cut", _body(good | {_LONG[route][0]: b"[" + _filled(b"1", BYTES - 300)})[:-1]


def ids_written_as_fractions(model: str, number: int = 900_000) -> bytes:
    """Return a valid, expensive embeddings body of nearly the maximum size."""
    return _body(
        {"model": b'"%b"' % model.encode(), "input": b"[" + _filled(b"1.0", 4 * number) + b"]"}
    )
