"""vLLM's side of structured outputs: its parameters, and what a trial needs to behave like vLLM.

Only this module and `engines.vllm` import vLLM. The child process of trials must not
import it: that takes 15 s and half a gigabyte.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import orjson
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output.backend_guidance import (
    GuidanceBackend,
    process_for_additional_properties,
)
from vllm.v1.structured_output.utils import choice_as_grammar, grammar_is_likely_lark

from relais_common.jobs.job import Sampling
from relais_llm_worker.settings import StructuredOutputsSettings
from relais_llm_worker.structured_outputs.specification import Library, Specification


def library_of(
    tokenizer: Any, vocab_size: int, settings: StructuredOutputsSettings
) -> Library | None:
    """Return what the trial server loads; None if it cannot load this kind of tokenizer."""
    if not (GuidanceBackend.is_tokenizer_supported(tokenizer) and tokenizer.is_fast):
        return None
    if settings.backend == "guidance":
        inner = copy(tokenizer.backend_tokenizer)
        inner.no_padding()
        inner.no_truncation()
        text, vocab_size = inner.to_str(), max(vocab_size, len(tokenizer))
    else:
        from xgrammar import TokenizerInfo

        text = TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocab_size).serialize_json()
    return Library(
        settings.backend,
        text,
        vocab_size,
        tokenizer.eos_token_id,
        any_whitespace=not settings.disable_any_whitespace,
    )


def params_of(sampling: Sampling) -> StructuredOutputsParams | None:
    """Return vLLM's parameters for a structured output."""
    if sampling.structured_outputs is not None:
        return StructuredOutputsParams(**sampling.structured_outputs)
    match sampling.response_format:
        case {"type": "json_object"}:
            return StructuredOutputsParams(json_object=True)
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return StructuredOutputsParams(json=schema)
    return None


def specification_of(
    sampling: Sampling, settings: StructuredOutputsSettings, param: str | None = None
) -> Specification | None:
    """Return what vLLM would pass to its library; None for an unconstrained answer.

    Args:
        param: the field to blame; by default that of the structured output.
    """
    params = params_of(sampling)
    if params is None:
        return None
    kind, text = _for_library(params, settings)
    if param is None:
        param = "response_format"
        if sampling.structured_outputs is not None:
            param = f"structured_outputs.{next(iter(sampling.structured_outputs))}"
    return Specification(kind, text, sampling.allowed_token_ids, param)


def _for_library(
    params: StructuredOutputsParams, settings: StructuredOutputsSettings
) -> tuple[str, str]:
    guidance = settings.backend == "guidance"
    if params.json_object:
        return "json", '{"type": "object"}'
    if params.json is not None:
        schema = params.json
        if isinstance(schema, str):
            schema = orjson.loads(schema)
        if guidance and settings.disable_additional_properties:
            schema = process_for_additional_properties(schema)
        return "json", orjson.dumps(schema).decode()
    if params.regex is not None:
        return "regex", params.regex
    if params.choice is not None:
        if guidance:
            return "choice", orjson.dumps(params.choice).decode()
        return "grammar", choice_as_grammar(params.choice)
    if params.structural_tag is not None:
        return "structural_tag", params.structural_tag
    grammar = str(params.grammar)
    return "lark" if grammar_is_likely_lark(grammar) else "grammar", grammar
