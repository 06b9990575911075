"""Chats as vLLM's own server handles them beside its engine: messages for templates, tools, parsers of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.exceptions import VLLMClientError
from vllm.parser.abstract_parser import Parser
from vllm.parser.parser_manager import ParserManager
from vllm.reasoning import ReasoningParserManager
from vllm.renderers.chat_utils import load_chat_template, make_tool_call_id, parse_chat_messages
from vllm.sampling_params import StructuredOutputsParams
from vllm.tool_parsers import ToolParserManager

from relais_common.jobs.chat import (
    Chat,
    FunctionCall,
    FunctionDelta,
    Message,
    ToolCall,
    ToolCallDelta,
)
from relais_common.jobs.errors import EngineRefused, SettingsError
from relais_common.jobs.job import Sampling
from relais_llm_worker.engines.prompts import plain
from relais_llm_worker.engines.vllm.requests import first_line
from relais_llm_worker.parsed_answer import Parsed
from relais_llm_worker.settings import ChatSettings

_STRUCTURES = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


def check_chat_settings(settings: ChatSettings) -> str | None:
    """Return the chat template, if one is set. Raises SettingsError before the model is loaded."""
    for name, value, known in (
        ("VLLM_TOOL_CALL_PARSER", settings.tool_call_parser, ToolParserManager),
        ("VLLM_REASONING_PARSER", settings.reasoning_parser, ReasoningParserManager),
    ):
        if value is not None and value not in known.list_registered():
            names = ", ".join(known.list_registered())
            raise SettingsError(f"{name} is {value!r}; vLLM has: {names}")
    try:
        template: str | None = load_chat_template(settings.template)
    except (VLLMClientError, ValueError) as error:
        raise SettingsError(f"VLLM_CHAT_TEMPLATE: {first_line(error)}") from None
    return template


class VllmChats:
    """The model's parsers, and what they need of a chat.

    Args:
        content_format: of messages, as the chat template takes it: a text, or a list of parts.
        bounds_reasoning: the engine takes budgets of tokens for reasoning. Not where its parser waits to be asked for
            any: vLLM has one without that at its start.
    """

    def __init__(
        self,
        tokenizer: Any,
        model_config: Any,
        settings: ChatSettings,
        content_format: Literal["string", "openai"] = "string",
        *,
        bounds_reasoning: bool = False,
    ) -> None:
        self._bounds_reasoning = bounds_reasoning
        self._content_format = content_format
        self._tokenizer = tokenizer
        self._model_config = model_config
        try:
            self._parser: type[Parser] | None = ParserManager.get_parser(
                tool_parser_name=settings.tool_call_parser,
                reasoning_parser_name=settings.reasoning_parser,
                enable_auto_tools=settings.tool_call_parser is not None,
                model_name=model_config.model,
                is_harmony=model_config.hf_config.model_type == "gpt_oss",
                tokenizer=tokenizer,
            )
        except TypeError as error:
            raise SettingsError(f"VLLM_TOOL_CALL_PARSER, VLLM_REASONING_PARSER: {error}") from None

    def conversation(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return messages as chat templates take them: with a call's arguments as an object."""
        turns: list[Any] = plain(messages)
        is_plain = self._content_format == "string"
        if is_plain and all(turn.keys() <= {"role", "content", "name"} for turn in turns):
            return turns
        conversation, _, _ = parse_chat_messages(
            turns, self._model_config, content_format=self._content_format
        )
        return [dict(turn) for turn in conversation]

    def template_variables(self, chat: Chat) -> dict[str, Any]:
        """Return what the template gets beside the messages.

        Raises:
            EngineRefused: the answer may call tools, and nothing here can read its calls.
        """
        options = chat.options
        if options.may_call and not self._reads_calls:
            raise EngineRefused(
                "tools: this model's worker reads no tool calls (VLLM_TOOL_CALL_PARSER is not set)",
                param="tools",
                code="unsupported_parameter",
            )
        variables = dict(chat.template_kwargs)
        if not options.add_generation_prompt:
            variables["add_generation_prompt"] = False
        if options.continue_final_message:
            variables["continue_final_message"] = True
        if options.documents:
            variables["documents"] = list(options.documents)
        if options.reasoning_effort is not None:
            variables = {
                "enable_thinking": options.reasoning_effort != "none",
                **variables,
                "reasoning_effort": options.reasoning_effort,
            }
        if options.tools:
            tools = _request(chat).tools or ()
            variables["tools"] = [tool.model_dump() for tool in tools]
        return variables

    def adjusted(self, sampling: Sampling, chat: Chat) -> Sampling:
        """Return the parameters with what the parsers need, and what makes the model call a tool that it must call.

        Raises:
            EngineRefused: the tools do not go together with the rest.
        """
        if sampling.adapts_bounds and not self._bounds_reasoning:
            # vLLM would refuse it.
            sampling = replace(sampling, thinking_token_budget=None)
        if not self._is_parsed(chat):
            return sampling
        request = _request(chat, sampling)
        try:
            asked = self.open_parser(request).adjust_request(request)
        except (VLLMClientError, ValueError, TypeError, NotImplementedError) as error:
            raise EngineRefused(f"tools: {first_line(error)}", param="tools") from error
        structure = asked.structured_outputs
        return replace(
            sampling,
            skip_special_tokens=asked.skip_special_tokens,
            structured_outputs=None if structure is None else _structure_fields(structure),
            response_format=None if structure is not None else sampling.response_format,
            # Known only now: of a parser's own grammar (Mistral's) that has the reasoning in it.
            structures_reasoning=asked.resolve_reasoning_ended(None, []) is True,
        )

    def parser_of(self, chat: Chat | None, prompt_token_ids: list[int]) -> VllmParser | None:
        """Return the parser of one answer; None if its text is all content."""
        if chat is None or not self._is_parsed(chat):
            return None
        return VllmParser(self, _request(chat), prompt_token_ids)

    @property
    def _reads_calls(self) -> bool:
        return self._parser is not None and self._parser.tool_parser_cls is not None

    @property
    def _reads_reasoning(self) -> bool:
        return self._parser is not None and self._parser.reasoning_parser_cls is not None

    def _is_parsed(self, chat: Chat) -> bool:
        return self._reads_reasoning or (bool(chat.options.tools) and self._reads_calls)

    def open_parser(self, request: ChatCompletionRequest) -> Parser:
        """Return a parser in its first state."""
        assert self._parser is not None
        return self._parser(
            self._tokenizer,
            request.tools,
            chat_template_kwargs=_variables(request),
            model_config=self._model_config,
        )


class VllmParser:
    """One answer's `AnswerParser`."""

    def __init__(
        self, chats: VllmChats, request: ChatCompletionRequest, prompt_token_ids: list[int]
    ) -> None:
        self._chats = chats
        self._request = request
        self._prompt_token_ids = prompt_token_ids
        self._parser = chats.open_parser(request)

    def engine_arguments(self, sampling: Sampling) -> dict[str, Any]:
        """Return what the engine is told of reasoning, after which structured outputs begin."""
        if self._parser.reasoning_parser is None:
            return {}
        # Some parsers remember what they were asked.
        reasoning_ended = sampling.structures_reasoning or self._request.resolve_reasoning_ended(
            self._chats.open_parser(self._request), self._prompt_token_ids
        )
        return {
            "reasoning_ended": reasoning_ended,
            "reasoning_parser_kwargs": {"chat_template_kwargs": _variables(self._request)},
        }

    def feed(self, text: str, token_ids: Sequence[int], *, finished: bool) -> Parsed:
        delta = self._parser.parse_delta(
            delta_text=text,
            delta_token_ids=list(token_ids),
            request=self._request,
            prompt_token_ids=self._prompt_token_ids,
            finished=finished,
        )
        if delta is None:
            return Parsed()
        calls = [_delta(call) for call in delta.tool_calls]
        return Parsed(delta.content or "", delta.reasoning or "", calls)

    def whole(self, text: str, token_ids: Sequence[int]) -> Message:
        parser = self._chats.open_parser(self._request)
        parser.set_prompt_token_ids(self._prompt_token_ids)
        reasoning, content, calls = parser.parse(
            text, self._request, enable_auto_tools=True, model_output_token_ids=token_ids
        )
        return Message(
            "assistant",
            content,
            reasoning=reasoning or None,
            tool_calls=tuple(
                ToolCall(call.id or make_tool_call_id(), FunctionCall(call.name, call.arguments))
                for call in calls or ()
            ),
        )

    def reasoning_tokens(self, token_ids: Sequence[int]) -> int | None:
        if self._parser.reasoning_parser is None:
            return None
        return self._parser.count_reasoning_tokens(token_ids)


def _request(chat: Chat, sampling: Sampling | None = None) -> ChatCompletionRequest:
    """Return the chat as vLLM's parsers take it.

    Args:
        sampling: as the client asked for it, where it matters.

    Raises:
        EngineRefused: vLLM refuses the combination.
    """
    options, sampling = chat.options, sampling or Sampling()
    fields: dict[str, Any] = {
        "messages": [],
        "tool_choice": options.tool_choice if options.tools else "none",
        "parallel_tool_calls": options.parallel_tool_calls,
        "reasoning_effort": options.reasoning_effort,
        "include_reasoning": options.include_reasoning,
        "add_generation_prompt": options.add_generation_prompt,
        "continue_final_message": options.continue_final_message,
        "documents": list(options.documents) or None,
        "chat_template_kwargs": dict(chat.template_kwargs) or None,
        "skip_special_tokens": sampling.skip_special_tokens,
        "response_format": sampling.response_format,
        "structured_outputs": sampling.structured_outputs,
    }
    if options.tools:
        fields["tools"] = list(options.tools)
    try:
        request = ChatCompletionRequest.model_validate(fields)
    except (VLLMClientError, ValidationError) as error:
        param = "structured_outputs" if sampling.structured_outputs else "tools"
        raise EngineRefused(f"{param}: {first_line(error)}", param=param) from error
    # Parsers only count the calls, and to check a long conversation would hold the event loop.
    request.messages = [
        {"role": turn.role, "tool_calls": turn.tool_calls}
        for turn in chat.messages
        if turn.tool_calls
    ]
    return request


def _variables(request: ChatCompletionRequest) -> dict[str, Any]:
    variables: dict[str, Any] = request.build_chat_params(None, "auto").chat_template_kwargs
    return variables


def _structure_fields(params: StructuredOutputsParams) -> dict[str, Any]:
    named = {name: getattr(params, name) for name in _STRUCTURES}
    return {name: value for name, value in named.items() if value is not None}


def _delta(call: Any) -> ToolCallDelta:
    function = call.function
    told = FunctionDelta() if function is None else FunctionDelta(function.name, function.arguments)
    return ToolCallDelta(call.index, call.id, None if call.id is None else "function", told)
