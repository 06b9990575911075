"""Forced decoding: a request whose first tokens are given, so that vLLM gets into the state in which an answer was cut.

vLLM keeps what an answer's tokens do to its grammar, penalties, budgets and random numbers in objects of its own. They
are right again once it has made the same tokens again, one step each. A custom logits processor, vLLM's extension
point for this, leaves it no other choice. There is one for each of vLLM's model runners.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.config import ModelConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsContext,
    LogitsProcessor,
    LogitsProcRequestState,
)

FORCED = "relais_forced_token_ids"
"""In `SamplingParams.extra_args`: the tokens with which the answer begins."""

_NEVER = float("-inf")


def add_processor(config: VllmConfig) -> None:
    """Have the engine of this configuration force tokens, unless vLLM takes no custom logits processor in it."""
    if config.speculative_config is None and not config.model_config.return_sampling_mask:
        of_runner = ForcedTokensV2 if config.use_v2_model_runner else ForcedTokens
        others = config.model_config.logits_processors or ()
        config.model_config.logits_processors = [*others, of_runner]


def has_processor(config: ModelConfig) -> bool:
    return any(one in (ForcedTokens, ForcedTokensV2) for one in config.logits_processors or ())


def _forced(params: SamplingParams) -> Sequence[int]:
    return (params.extra_args or {}).get(FORCED, ())


class ForcedTokens(AdapterLogitsProcessor):
    """For the first model runner, which CPUs have."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> _Begun | None:
        forced = _forced(params)
        return _Begun(forced) if forced else None


class _Begun:
    """One request's tokens."""

    def __init__(self, forced: Sequence[int]) -> None:
        self._forced = forced

    def __call__(self, output_ids: Sequence[int], logits: Any) -> Any:
        # The last ids may be placeholders still, but they are counted.
        step = len(output_ids)
        if step < len(self._forced):
            logits.fill_(_NEVER)
            logits[self._forced[step]] = 0.0
        return logits


class ForcedTokensV2(LogitsProcessor):
    """For the second model runner, which GPUs have."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        self._states = req_states
        self._forced: dict[int, Sequence[int]] = {}

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        self._forced.pop(req_idx, None)
        if forced := _forced(sampling_params):
            self._forced[req_idx] = forced
        return bool(forced)

    def apply(self, logits: Any, ctx: LogitsContext) -> Any:
        if not self._forced:
            return logits
        # By slot; -1 where the model chooses.
        token_ids = [-1] * self._states.max_num_reqs
        for slot, length in zip(ctx.idx_mapping_np, ctx.seq_lens_upper_bound_np, strict=False):
            forced = self._forced.get(int(slot), ())
            step = int(length) - int(self._states.prompt_len.np[slot])
            if 0 <= step < len(forced):
                token_ids[int(slot)] = forced[step]
            elif step >= len(forced):
                self._forced.pop(int(slot), None)
        if not self._forced:
            return logits
        slots = ctx.expanded_idx_mapping
        of_rows = slots.new_tensor(token_ids)[slots].long().unsqueeze(1)
        is_forced, chosen = of_rows >= 0, of_rows.clamp(min=0)
        kept = logits.gather(1, chosen).masked_fill(is_forced, 0.0)
        return logits.masked_fill_(is_forced, _NEVER).scatter_(1, chosen, kept)
