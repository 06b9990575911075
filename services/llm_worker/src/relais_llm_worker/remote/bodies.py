"""Jobs in OpenAI's shape, and the answers' chunks out of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from relais_common.events import RankedToken, TokenLogprob, Usage
from relais_common.jobs import Job, Sampling
from relais_llm_worker.remote.errors import Lost

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
# Said by other means.
_OURS = frozenset(("max_tokens", "stop", "logprobs"))
_NAMED_OTHERWISE = {
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
}
UNTOLD = -9999.0  # vLLM's own word for a logarithm that it does not have
_NO_END = frozenset(("abort", "error"))


@dataclass(frozen=True, slots=True)
class Question:
    """One request to one server."""

    path: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delta:
    """One chunk of a stream.

    Attributes:
        token_ids: None where the server does not tell.
        prompt_token_ids: on the first chunk, where the server tells.
        aside: the server keeps something of the answer apart from its text: thoughts, calls of tools.
        usage: on the chunk after the last.
    """

    text: str = ""
    token_ids: tuple[int, ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    aside: bool = False
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


def ask(job: Job, model: str, max_tokens: int | None, *, with_ids: bool) -> Question:
    """The job as its client posed it.

    Args:
        max_tokens: None leaves it to the server.
        with_ids: have the server tell token ids; stop strings are then found here.
    """
    if job.messages is not None:
        path = CHAT
        prompt: dict[str, Any] = {
            "messages": [{"role": turn.role, "content": turn.content} for turn in job.messages]
        }
        if job.chat_template_kwargs:
            prompt["chat_template_kwargs"] = job.chat_template_kwargs
        if job.sampling.logprobs is not None:
            prompt |= {"logprobs": True, "top_logprobs": job.sampling.logprobs}
    else:
        path = COMPLETIONS
        prompt = {"prompt": list(job.prompt) if isinstance(job.prompt, tuple) else job.prompt}
        if job.sampling.logprobs is not None:
            prompt["logprobs"] = job.sampling.logprobs
    return Question(path, prompt | _rest(job.sampling, model, max_tokens, with_ids=with_ids))


def ask_to_go_on(
    job: Job, model: str, prompt_token_ids: list[int], emitted: int, max_tokens: int
) -> Question:
    """What is left of the answer.

    Args:
        prompt_token_ids: the prompt's, and those of the answer so far.
        emitted: how many of them are the answer's.
        max_tokens: of what is left.
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


def read_delta(chunk: Any) -> Delta:
    """A chunk of either route. Raises Lost where it is none."""
    try:
        usage = _usage(chunk.get("usage"))
        choices = chunk.get("choices")
        if not choices:
            return Delta(usage=usage)
        choice = choices[0]
        delta = choice.get("delta") or {}
        text = choice.get("text") or delta.get("content") or ""
        reason = choice.get("finish_reason")
        if reason in _NO_END:
            raise Lost(f"the server ended the request: {reason}")
        return Delta(
            text=str(text),
            token_ids=_ids(choice.get("token_ids")),
            prompt_token_ids=_ids(chunk.get("prompt_token_ids") or choice.get("prompt_token_ids")),
            finish_reason=_NAMED_OTHERWISE.get(reason, reason),
            stop_reason=choice.get("stop_reason"),
            aside=any(delta.get(name) for name in ("reasoning", "reasoning_content", "tool_calls")),
            usage=usage,
            logprobs=_logprobs(choice.get("logprobs") or {}),
        )
    except (AttributeError, TypeError, KeyError, IndexError, ValueError):
        raise Lost("a chunk is not OpenAI's") from None


def _ids(given: Any) -> tuple[int, ...] | None:
    return None if given is None else tuple(map(int, given))


def _logprobs(given: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    """In a chat's form, a list of objects, or in a completion's, a list of each of their fields."""
    if "tokens" in given:
        tops = given.get("top_logprobs") or [None] * len(given["tokens"])
        return tuple(
            TokenLogprob(str(token), _number(logprob), _ranked(dict(top or {}).items()))
            for token, logprob, top in zip(
                given["tokens"], given["token_logprobs"], tops, strict=True
            )
        )
    return tuple(
        TokenLogprob(
            str(one["token"]),
            float(one["logprob"]),
            _ranked((top["token"], top["logprob"]) for top in one.get("top_logprobs") or ()),
        )
        for one in given.get("content") or ()
    )


def _number(logprob: float | None) -> float:
    return UNTOLD if logprob is None else float(logprob)


def _ranked(told: Iterable[tuple[str, float]]) -> tuple[RankedToken, ...]:
    ranked = [RankedToken(str(token), float(logprob)) for token, logprob in told]
    return tuple(sorted(ranked, key=lambda one: one.logprob, reverse=True))


def _usage(given: Any) -> Usage | None:
    if not given:
        return None
    details = given.get("prompt_tokens_details") or {}
    return Usage(
        int(given["prompt_tokens"]),
        int(given["completion_tokens"]),
        int(details.get("cached_tokens") or 0),
    )
