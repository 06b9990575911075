"""The engine port over vLLM's AsyncLLM. Only this module and `structured_outputs.of_vllm` import vLLM."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import structlog
from jinja2 import TemplateError
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.envs import enable_envs_cache
from vllm.exceptions import VLLMClientError
from vllm.inputs import TokensPrompt, tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import RequestOutputCollector
from vllm.v1.metrics.loggers import StatLoggerBase

from relais_common.jobs.errors import EngineDead, EngineFailed, EngineRefused, NotResumable
from relais_common.jobs.events import RankedToken, TokenLogprob
from relais_common.jobs.job import Message, Sampling
from relais_llm_worker.answer_text import AnswerText
from relais_llm_worker.engines.engine import (
    NOTHING,
    Chunk,
    Emitted,
    EngineLoad,
    Generation,
    ModelInfo,
)
from relais_llm_worker.engines.parent_death import guard_forks
from relais_llm_worker.engines.prompts import Prompts
from relais_llm_worker.engines.token_texts import TokenTexts
from relais_llm_worker.settings import EngineSettings, StructuredOutputsSettings
from relais_llm_worker.structured_outputs.of_vllm import library_of, params_of, specification_of
from relais_llm_worker.structured_outputs.specification import Budget
from relais_llm_worker.structured_outputs.trial_client import open_trial_client
from relais_llm_worker.structured_outputs.trials import Trials

log = structlog.get_logger(__name__)

SHUTDOWN_TIMEOUT_S = 10.0
# Arguments of transformers' `apply_chat_template`, and names that it gives the template itself.
_NO_VARIABLES = frozenset(
    (
        *("conversation", "conversations", "messages", "tools", "documents", "chat_template"),
        *("add_generation_prompt", "continue_final_message", "tokenize", "tokenizer_kwargs"),
        *("padding", "truncation", "max_length", "return_tensors", "return_dict"),
        "return_assistant_tokens_mask",
    )
)
_LONGEST_CONTEXT = 4  # tokens that may share a character


class _LoadGauge(StatLoggerBase):
    """Keeps the scheduler's last report of its load."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self.load = EngineLoad(waiting=0, kv_cache_usage=0.0)
        self._steps = 0

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        self._steps += 1
        if scheduler_stats is not None:
            self.load = EngineLoad(
                waiting=scheduler_stats.num_waiting_reqs,
                kv_cache_usage=scheduler_stats.kv_cache_usage,
                steps=self._steps,
            )

    def log_engine_initialized(self) -> None:
        """Do nothing."""


class VllmMetrics(Collector):
    """vLLM's own metrics, which it records whether or not they are exposed.

    Given a stat logger of ours, it adds its own Prometheus logger, which knows no registry but the default one.
    """

    def collect(self) -> Iterable[Metric]:
        return [metric for metric in REGISTRY.collect() if metric.name.startswith("vllm:")]


@asynccontextmanager
async def open_vllm_engine(settings: EngineSettings) -> AsyncIterator[VllmEngine]:
    """Load the model in a thread, so that health checks are answered meanwhile; shut it down on exit."""
    guard_forks()
    # One thread for the engine's whole life: its processes die with the thread that created them.
    with ThreadPoolExecutor(1, thread_name_prefix="vllm") as thread:
        loop = asyncio.get_running_loop()
        llm, gauge = await loop.run_in_executor(thread, _load, settings)
        prompts = Prompts(llm.get_tokenizer(), llm.model_config.max_model_len)
        try:
            async with _open_trials(llm, settings.structured_outputs) as trials:
                yield VllmEngine(llm, gauge, settings, prompts, trials)
        finally:
            prompts.close()
            # In this thread, because the engine's tasks belong to this loop.
            llm.shutdown(timeout=SHUTDOWN_TIMEOUT_S)


@asynccontextmanager
async def _open_trials(
    llm: AsyncLLM, settings: StructuredOutputsSettings
) -> AsyncIterator[Trials | None]:
    """Open the trials; None if the model's tokenizer does not support them."""
    vocab_size = llm.model_config.get_vocab_size()
    library = library_of(llm.get_tokenizer(), vocab_size, settings)
    if library is None:
        log.warning("structured_outputs_unavailable", reason="the tokenizer is not a fast one")
        yield None
        return
    # A twentieth of the total, because every running request waits for a step.
    budget = Budget(settings.cpu_s, settings.cpu_s / 20)
    async with open_trial_client(library, budget) as client:
        trials = Trials(client.try_out)
        try:
            yield trials
        finally:
            await trials.close()


def _load(settings: EngineSettings) -> tuple[AsyncLLM, _LoadGauge]:
    gauges: list[_LoadGauge] = []

    def make_gauge(vllm_config: Any, engine_index: int = 0) -> _LoadGauge:
        gauges.append(_LoadGauge(vllm_config, engine_index))
        return gauges[-1]

    if settings.enforce_eager:
        # Otherwise parts of the sampler are compiled at the first request with logprobs, and all streams wait.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    llm = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=settings.repo_id,
            served_model_name=settings.served_name,
            dtype=settings.dtype,
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            kv_cache_memory_bytes=settings.kv_cache_memory_bytes,
            tensor_parallel_size=settings.tensor_parallel_size,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            enforce_eager=settings.enforce_eager,
            download_dir=settings.models_cache_dir,
            structured_outputs_config=StructuredOutputsConfig(
                backend=settings.structured_outputs.backend,
                disable_any_whitespace=settings.structured_outputs.disable_any_whitespace,
                disable_additional_properties=settings.structured_outputs.backend == "guidance"
                and settings.structured_outputs.disable_additional_properties,
            ),
            enable_log_requests=False,
            # This concerns vLLM's own loggers; the gauge below is ours and stays.
            disable_log_stats=True,
        ),
        stat_loggers=[make_gauge],
    )
    # Otherwise vLLM parses environment variables again for every token that it counts.
    enable_envs_cache()
    return llm, gauges[0]


class VllmEngine:
    """One AsyncLLM, and the properties of its model."""

    def __init__(
        self,
        llm: AsyncLLM,
        gauge: _LoadGauge,
        settings: EngineSettings,
        prompts: Prompts,
        trials: Trials | None,
    ) -> None:
        self._llm = llm
        self._gauge = gauge
        self._prompts = prompts
        self._trials = trials
        self._structured_outputs = settings.structured_outputs
        self._tokenizer: Any = llm.get_tokenizer()
        self._single_texts: dict[int, str] = {}  # at most the vocabulary
        self._defaults = llm.model_config.get_diff_sampling_param()
        self._info = ModelInfo(
            name=settings.served_name,
            revision=_revision(llm, settings),
            max_model_len=llm.model_config.max_model_len,
            max_num_seqs=settings.max_num_seqs,
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    def load(self) -> EngineLoad:
        return self._gauge.load

    async def encode_chat(
        self, key_id: str, messages: tuple[Message, ...], template_kwargs: Mapping[str, Any]
    ) -> list[int]:
        # Arguments of the method itself are not template variables.
        if taken := sorted(_NO_VARIABLES.intersection(template_kwargs)):
            raise EngineRefused(
                f"chat_template_kwargs.{taken[0]}: this cannot be set",
                param=f"chat_template_kwargs.{taken[0]}",
                code="unsupported_parameter",
            )
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        try:
            return await self._prompts.of_chat(key_id, turns, template_kwargs)
        except (TemplateError, ValueError, TypeError) as error:
            raise EngineRefused(
                f"the model's chat template refused the messages: {error}",
                param="chat_template_kwargs" if template_kwargs else "messages",
            ) from error

    async def encode_text(self, key_id: str, text: str) -> list[int]:
        return await self._prompts.of_text(key_id, text)

    def settled(self, sampling: Sampling) -> Sampling:
        missing = {
            name: value
            for name, value in self._defaults.items()
            if name in _SETTLED and getattr(sampling, name) is None
        }
        return replace(sampling, **missing)

    async def check_structure(self, sampling: Sampling, *, key_id: str) -> None:
        specification = specification_of(sampling, self._structured_outputs)
        if specification is None:
            return
        if sampling.bad_words:
            # They may allow no token at some unknown step, and the engine would fail in the middle of the answer.
            raise EngineRefused(
                "bad_words: cannot be combined with structured outputs",
                param="bad_words",
                code="unsupported_parameter",
            )
        if self._trials is None:
            raise EngineRefused(
                f"{specification.param}: this model does not support structured outputs",
                param=specification.param,
                code="unsupported_parameter",
            )
        await self._trials.check(specification, key_id=key_id)

    @asynccontextmanager
    async def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        sampling: Sampling,
        max_tokens: int,
        emitted: Emitted = NOTHING,
    ) -> AsyncIterator[Generation]:
        sampling = self.settled(sampling)
        text = AnswerText(
            self._decoder(request_id, prompt_token_ids, sampling.skip_special_tokens),
            sampling.stop,
            sampling.min_tokens or 0,
            keep_stop=sampling.include_stop_str_in_output,
        )
        if not text.replay(emitted):
            raise NotResumable("its tokens give another text here")
        collector = await self._add(
            request_id, prompt_token_ids, sampling, max_tokens, emitted.token_ids
        )
        run = _Generation(collector, text, sampling, self._logprobs(sampling.logprobs, emitted))
        try:
            yield run
        finally:
            if not run.finished and not self._llm.errored:
                await self._llm.abort(collector.request_id, internal=True)

    def _logprobs(self, count: int | None, emitted: Emitted) -> _Logprobs | None:
        if count is None:
            return None
        texts = TokenTexts(self._token_text)
        texts.advance(emitted.token_ids[-_LONGEST_CONTEXT:])
        return _Logprobs(texts, count)

    def _token_text(self, token_ids: Sequence[int]) -> str:
        if len(token_ids) > 1:
            return str(self._tokenizer.decode(list(token_ids)))
        (token_id,) = token_ids
        if token_id not in self._single_texts:
            (text,) = convert_ids_list_to_tokens(self._tokenizer, [token_id])
            self._single_texts[token_id] = text
        return self._single_texts[token_id]

    def _decoder(
        self, request_id: str, prompt_token_ids: list[int], skip_special_tokens: bool
    ) -> Callable[[int], str]:
        """Wrap vLLM's incremental detokeniser, so that a resumed stream can continue within a character."""
        request: Any = SimpleNamespace(
            request_id=request_id,
            prompt_token_ids=prompt_token_ids,
            prompt_embeds=None,
            sampling_params=SamplingParams(skip_special_tokens=skip_special_tokens),
        )
        detokenizer = IncrementalDetokenizer.from_new_request(self._tokenizer, request)

        def decode(token_id: int) -> str:
            detokenizer.update([token_id], stop_terminated=False)
            return detokenizer.get_next_output_text(finished=False, delta=True)

        return decode

    async def _add(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        sampling: Sampling,
        max_tokens: int,
        emitted: tuple[int, ...],
    ) -> RequestOutputCollector:
        token_ids = [*prompt_token_ids, *emitted]
        try:
            params = _sampling_params(sampling, max_tokens, len(emitted))
            # vLLM processes a raw prompt in a thread, which is worthwhile only if it also checks a specification.
            prompt: Any = tokens_input(token_ids)
            if params.structured_outputs is not None:
                prompt = TokensPrompt(prompt_token_ids=token_ids)
            return await self._llm.add_request(request_id, prompt, params)
        except EngineDeadError as error:
            raise EngineDead("vLLM's engine is dead") from error
        except (VLLMClientError, ValueError, TypeError) as error:
            message = str(error.args[0] if error.args else error).strip().partition("\n")[0]
            param = getattr(error, "parameter", None) or _field_named_in(message, sampling)
            raise EngineRefused(message, param=param) from error

    def kill(self) -> None:
        # Their child processes die with them.
        for process in getattr(self._llm.engine_core.resources.engine_manager, "processes", ()):
            process.kill()

    async def check_health(self) -> None:
        try:
            await self._llm.check_health()
        except EngineDeadError as error:
            raise EngineDead("vLLM's engine is dead") from error


class _Logprobs:
    """Converts vLLM's log probabilities of one request, adding texts to ids."""

    def __init__(self, texts: TokenTexts, count: int) -> None:
        self._texts = texts
        self._count = count

    def of(self, token_ids: Sequence[int], told: Sequence[Any]) -> tuple[TokenLogprob, ...]:
        """Convert the log probabilities of the next tokens from vLLM's maps of id to object."""
        return tuple(map(self._one, token_ids, told))

    def _one(self, token_id: int, candidates: Mapping[int, Any]) -> TokenLogprob:
        ranked = sorted(candidates.items(), key=lambda item: item[1].logprob, reverse=True)
        one = TokenLogprob(
            self._texts.text(token_id),
            _bounded(candidates[token_id].logprob),
            tuple(
                RankedToken(self._texts.text(other_id), _bounded(other.logprob))
                for other_id, other in ranked[: self._count]
            ),
        )
        self._texts.advance((token_id,))
        return one


def _bounded(logprob: float) -> float:
    """Clamp a log probability. JSON has no infinity; OpenAI and vLLM use this value instead."""
    return max(logprob, -9999.0)


class _Generation:
    """A request that vLLM is running."""

    def __init__(
        self,
        collector: RequestOutputCollector,
        text: AnswerText,
        sampling: Sampling,
        logprobs: _Logprobs | None,
    ) -> None:
        self._collector = collector
        self._text = text
        self._keep_stop = sampling.include_stop_str_in_output
        self._logprobs = logprobs
        self.finished = False

    async def chunks(self) -> AsyncIterator[Chunk]:
        while not self.finished:
            try:
                output: Any = self._collector.get_nowait() or await self._collector.get()
            except EngineDeadError as error:
                self.finished = True
                raise EngineDead("vLLM's engine is dead") from error
            self.finished = output.finished
            completion = output.outputs[0]
            if completion.finish_reason not in (None, "stop", "length"):
                raise EngineFailed("the engine ended the request with an error")
            chunk = self._chunk(
                tuple(completion.token_ids), completion.finish_reason, completion.stop_reason
            )
            chunk.cached_tokens = output.num_cached_tokens or 0
            if self._logprobs is not None:
                chunk.logprobs = self._logprobs.of(chunk.token_ids, completion.logprobs or ())
            yield chunk
            if chunk.finish_reason is not None:
                return

    def _chunk(
        self, token_ids: tuple[int, ...], reason: str | None, stop_reason: int | str | None
    ) -> Chunk:
        # The token at which the engine stops is counted, but adds no text unless requested.
        text_ids = token_ids[:-1] if reason == "stop" and not self._keep_stop else token_ids
        for count, token_id in enumerate(text_ids, 1):
            matched = self._text.feed(token_id)
            if matched is not None:
                return Chunk(token_ids[:count], self._text.give(ended=True), "stop", matched)
        return Chunk(token_ids, self._text.give(ended=reason is not None), reason, stop_reason)


_SETTLED = (
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


def _sampling_params(sampling: Sampling, max_tokens: int, emitted: int) -> SamplingParams:
    """Return vLLM's parameters for the rest of an answer; None leaves a value to vLLM.

    Text and stop strings are handled by `AnswerText`, so that a resumed stream follows the same rules.
    """
    given = {name: value for name in _SETTLED if (value := getattr(sampling, name)) is not None}
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
        structured_outputs=params_of(sampling),
        output_kind=RequestOutputKind.DELTA,
    )


def _field_named_in(message: str, sampling: Sampling) -> str | None:
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


def _revision(llm: AsyncLLM, settings: EngineSettings) -> str:
    """Return an identifier of these weights in this precision: the hub's commit, or a digest of local files."""
    config = llm.model_config
    commit = getattr(config.hf_config, "_commit_hash", None)
    if commit is None:
        digest = hashlib.sha256()
        for path in sorted(Path(settings.repo_id).glob("*")):
            if path.suffix in (".json", ".safetensors", ".jinja"):
                digest.update(f"{path.name}:{path.stat().st_size}:".encode())
                with path.open("rb") as file:
                    digest.update(file.read(1 << 20))
        commit = digest.hexdigest()[:16]
    return f"{commit}/{str(config.dtype).removeprefix('torch.')}"
