"""Converts jobs to bodies of OpenAI's API. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from msgspec import to_builtins

from relais_common.jobs.chat import ChatOptions, Message
from relais_common.jobs.job import Job, Sampling

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
# Said by other means.
_OURS = frozenset(("max_tokens", "adapts_bounds", "stop", "logprobs"))


@dataclass(frozen=True, slots=True)
class Question:
    """One request to one server."""

    path: str
    body: dict[str, Any]


def ask(job: Job, model: str, max_tokens: int | None, *, with_ids: bool) -> Question:
    """Return the request for a job from its beginning.

    Args:
        max_tokens: None for the server's default.
        with_ids: request token ids; stop strings are then found here.
    """
    prompt = prompt_of(job)
    if job.messages is not None:
        path = CHAT
        prompt |= _options(job.chat)
        if job.sampling.logprobs is not None:
            prompt |= {"logprobs": True, "top_logprobs": job.sampling.logprobs}
    else:
        path = COMPLETIONS
        if job.sampling.logprobs is not None:
            prompt["logprobs"] = job.sampling.logprobs
    if job.prompting.truncate_prompt_tokens is not None:
        prompt["truncate_prompt_tokens"] = job.prompting.truncate_prompt_tokens
    return Question(path, prompt | _rest(job.sampling, model, max_tokens, with_ids=with_ids))


def prompt_of(job: Job) -> dict[str, Any]:
    """Return the fields of the prompt."""
    prompt: dict[str, Any] = {}
    if job.prompting.add_special_tokens is not None:
        prompt["add_special_tokens"] = job.prompting.add_special_tokens
    if job.messages is None:
        prompt["prompt"] = list(job.prompt) if isinstance(job.prompt, tuple) else job.prompt
        return prompt
    prompt["messages"] = [_message(turn) for turn in job.messages]
    if job.chat_template_kwargs:
        prompt["chat_template_kwargs"] = job.chat_template_kwargs
    if job.chat.tools:
        prompt["tools"] = list(job.chat.tools)
    if not job.chat.add_generation_prompt:
        prompt["add_generation_prompt"] = False
    if job.chat.continue_final_message:
        prompt["continue_final_message"] = True
    return prompt


def _message(turn: Message) -> dict[str, Any]:
    # Some servers want `content` even where there is none.
    return {"content": None, **to_builtins(turn)}


def _options(chat: ChatOptions) -> dict[str, Any]:
    """Return the fields of tools and reasoning. Fields of calls are only allowed with tools."""
    said: dict[str, Any] = to_builtins(chat)
    if chat.tools:
        said["tool_choice"] = chat.tool_choice
    else:
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            said.pop(name, None)
    return said


def ask_to_go_on(
    job: Job, model: str, prompt_token_ids: list[int], emitted: int, max_tokens: int
) -> Question:
    """Return the request for the rest of an answer.

    Args:
        prompt_token_ids: of the prompt and of the answer so far.
        emitted: how many of them belong to the answer.
        max_tokens: of the rest.
    """
    sampling = job.sampling
    if sampling.min_tokens is not None:
        sampling = replace(sampling, min_tokens=max(0, sampling.min_tokens - emitted))
    rest = _rest(sampling, model, max_tokens, with_ids=True)
    if sampling.logprobs is not None:
        rest["logprobs"] = sampling.logprobs
    return Question(COMPLETIONS, {"prompt": prompt_token_ids} | rest)


def _rest(
    sampling: Sampling, model: str, max_tokens: int | None, *, with_ids: bool
) -> dict[str, Any]:
    # What is left at its default is not said: not every server knows every field.
    named = {
        field.name: value
        for field in fields(sampling)
        if field.name not in _OURS and (value := getattr(sampling, field.name)) != field.default
    }
    body = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        **named,
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if with_ids:
        body["return_token_ids"] = True
    elif sampling.stop:
        body["stop"] = list(sampling.stop)
    return body
