"""The markup in which the deterministic engine writes reasoning and tool calls, and its parser. Pure.

`<think>...</think>` is reasoning, and `<tool_call>{"name": "f", "arguments": {...}}</tool_call>` is a call, as in many
models.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import orjson

from relais_common.jobs.chat import (
    FunctionCall,
    FunctionDelta,
    Message,
    ToolCall,
    ToolCallDelta,
)
from relais_llm_worker.parsed_answer import Parsed

_THINK, _THOUGHT = "<think>", "</think>"
_CALL, _CALLED = "<tool_call>", "</tool_call>"
_BEGIN = re.compile(r'\s*\{"name":\s*"([^"]+)",\s*"arguments":\s*(?=\S)')
_REASONING = re.compile(f"{_THINK}(.*?)(?:{_THOUGHT}|$)", re.DOTALL)
_CALLS = re.compile(f"{_CALL}(.*?)(?:{_CALLED}|$)", re.DOTALL)
_END = re.compile(r"\}\s*$")


class MarkupParser:
    """Parses one answer.

    Args:
        seed: makes the ids of calls. An answer that goes on elsewhere has the same.
        calls: whether tool calls are looked for.
    """

    def __init__(self, seed: bytes, *, calls: bool) -> None:
        self._seed = seed
        self._openings = (_THINK, _CALL) if calls else (_THINK,)
        self._pending = ""
        self._within = ""
        self._index = -1
        self._has_name = False
        self._reasoning_tokens = 0

    def feed(self, text: str, token_ids: Sequence[int], *, finished: bool) -> Parsed:
        self._pending += text
        content: list[str] = []
        reasoning: list[str] = []
        calls: list[ToolCallDelta] = []
        while self._step(content, reasoning, calls, finished=finished):
            pass
        self._reasoning_tokens += len(token_ids) if self._within == _THINK or reasoning else 0
        return Parsed("".join(content), "".join(reasoning), calls)

    def _step(
        self,
        content: list[str],
        reasoning: list[str],
        calls: list[ToolCallDelta],
        *,
        finished: bool,
    ) -> bool:
        """Take what can be taken of the pending text. Returns whether there may be more of it."""
        if self._within == _CALL:
            return self._step_in_call(calls, finished=finished)
        closing = (_THOUGHT,) if self._within else self._openings
        found = min(
            ((at, tag) for tag in closing if (at := self._pending.find(tag)) >= 0),
            default=None,
        )
        end = len(self._pending) - (0 if finished else _held_back(self._pending, closing))
        if found is not None:
            end = found[0]
        if end:
            (reasoning if self._within else content).append(self._pending[:end])
        self._pending = self._pending[end:]
        if found is None:
            return False
        self._pending = self._pending.removeprefix(found[1])
        self._within = "" if self._within else found[1]
        self._index += self._within == _CALL
        self._has_name = False
        return True

    def _step_in_call(self, calls: list[ToolCallDelta], *, finished: bool) -> bool:
        body, closed, rest = self._pending.partition(_CALLED)
        if not self._has_name:
            begin = _BEGIN.match(body)
            if begin is None:
                if closed:
                    self._pending, self._within = rest, ""
                return bool(closed)
            self._has_name = True
            name = FunctionDelta(begin[1], "")
            calls.append(ToolCallDelta(self._index, self._id(self._index), "function", name))
            body = body[begin.end() :]
            self._pending = self._pending[begin.end() :]
        if closed:
            arguments, self._pending, self._within = _END.sub("", body), rest, ""
        else:
            # What may be the end of the call, rather than of its arguments, waits.
            end = len(body) - (0 if finished else _held_back(body, (_CALLED,)))
            if not finished and (last := _END.search(body, 0, end)):
                end = last.start()
            arguments, self._pending = body[:end], body[end:]
        if arguments:
            calls.append(ToolCallDelta(self._index, function=FunctionDelta(arguments=arguments)))
        return bool(closed)

    def whole(self, text: str, token_ids: Sequence[int]) -> Message:
        thought = "".join(_REASONING.findall(text)) or None
        content = _REASONING.sub("", text)
        calls = []
        if _CALL in self._openings:
            try:
                for index, body in enumerate(_CALLS.findall(content)):
                    call = orjson.loads(body)
                    arguments = orjson.dumps(call["arguments"]).decode()
                    calls.append(ToolCall(self._id(index), FunctionCall(call["name"], arguments)))
            except (orjson.JSONDecodeError, KeyError, TypeError):
                calls = []
        if calls:
            content = content.partition(_CALL)[0]
        return Message("assistant", content or None, reasoning=thought, tool_calls=tuple(calls))

    def reasoning_tokens(self, token_ids: Sequence[int]) -> int | None:
        return self._reasoning_tokens

    def _id(self, index: int) -> str:
        digest = hashlib.sha256(self._seed + index.to_bytes(4, "big")).hexdigest()
        return f"call_{digest[:16]}"


def _held_back(text: str, tags: Sequence[str]) -> int:
    """Return how many characters at the end may begin one of the tags."""
    return max(
        (
            length
            for tag in tags
            for length in range(1, min(len(tag), len(text) + 1))
            if text.endswith(tag[:length])
        ),
        default=0,
    )
