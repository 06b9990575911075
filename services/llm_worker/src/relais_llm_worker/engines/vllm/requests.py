"""Requests as vLLM takes them, and as a refusal names their fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from vllm.sampling_params import RequestOutputKind, SamplingParams

from relais_common.jobs.job import Sampling
from relais_llm_worker.engines.vllm.forced_tokens import FORCED
from relais_llm_worker.structured_outputs.of_vllm import params_of

SETTLED = (
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
)


def sampling_params(
    sampling: Sampling,
    max_tokens: int,
    emitted: int,
    forced: Sequence[int] = (),
    prompt_logprobs: int | None = None,
    tokens_at_once: int = 1,
) -> SamplingParams:
    """Return vLLM's parameters for the rest of an answer; None leaves a value to vLLM.

    Text and stop strings are handled by `AnswerText`, so that a resumed stream follows the same rules.

    Args:
        emitted: how many of the answer's tokens are part of the prompt.
        forced: the tokens that come first after the prompt.
        tokens_at_once: as of `Engine.generate`.
    """
    given = {name: value for name in SETTLED if (value := getattr(sampling, name)) is not None}
    if "min_tokens" in given:
        given["min_tokens"] = max(0, given["min_tokens"] - emitted)
    return SamplingParams(
        **given,
        max_tokens=max_tokens - emitted,
        detokenize=False,
        ignore_eos=sampling.ignore_eos,
        logit_bias=_logit_bias(sampling.logit_bias),
        stop_token_ids=list(sampling.stop_token_ids),
        bad_words=list(sampling.bad_words),
        allowed_token_ids=list(sampling.allowed_token_ids) or None,
        logprobs=sampling.logprobs,
        prompt_logprobs=prompt_logprobs,
        thinking_token_budget=sampling.thinking_token_budget,
        structured_outputs=params_of(sampling),
        output_kind=RequestOutputKind.DELTA,
        stream_interval=tokens_at_once,
        extra_args={FORCED: list(forced)} if forced else None,
        skip_clone=True,  # made for this request alone
    )


def first_line(error: Exception) -> str:
    """Return vLLM's message without what it adds on further lines."""
    return str(error.args[0] if error.args else error).strip().partition("\n")[0]


def field_named_in(message: str, sampling: Sampling) -> str | None:
    """Return the request field that a vLLM message is about, if it mentions one only in prose."""
    lowered = message.lower()
    if sampling.structured_outputs is not None and any(
        word in lowered for word in ("grammar", "schema", "regex", "choice", "structured")
    ):
        return "structured_outputs"
    if "grammar" in lowered or "schema" in lowered:
        return "response_format"
    if "out of vocabulary" in lowered:
        return "prompt"
    named = [field.name for field in fields(Sampling) if field.name in lowered]
    return min(named, key=lowered.index, default=None)


def _logit_bias(biases: dict[str, float] | None) -> dict[int, float] | None:
    if biases is None:
        return None
    return {int(token_id): bias for token_id, bias in biases.items()}
