"""Loading a model with vLLM, and shutting it down."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import structlog
from vllm.envs import enable_envs_cache
from vllm.lora.request import LoRARequest
from vllm.renderers.hf import resolve_chat_template, resolve_chat_template_content_format
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from relais_common.jobs.errors import SettingsError
from relais_llm_worker.engine import ModelInfo
from relais_llm_worker.engines.parsing import Parsing
from relais_llm_worker.engines.prompts import Prompts
from relais_llm_worker.engines.vllm.adapters import adapters_of, digest_of, load_adapter
from relais_llm_worker.engines.vllm.arguments import engine_args, in_one_line
from relais_llm_worker.engines.vllm.chats import VllmChats, check_chat_settings
from relais_llm_worker.engines.vllm.engine import VllmEngine
from relais_llm_worker.engines.vllm.forced_tokens import add_processor, has_processor
from relais_llm_worker.engines.vllm.images import VllmImages
from relais_llm_worker.engines.vllm.metrics import LoadGauge
from relais_llm_worker.parent_death import guard_forks
from relais_llm_worker.settings import NOT_VLLM_S, EngineSettings, StructuredOutputsSettings
from relais_llm_worker.structured_outputs.of_vllm import library_of
from relais_llm_worker.structured_outputs.specification import Budget
from relais_llm_worker.structured_outputs.trial_client import open_trial_client
from relais_llm_worker.structured_outputs.trials import Trials

log = structlog.get_logger(__name__)

SHUTDOWN_TIMEOUT_S = 10.0


@asynccontextmanager
async def open_vllm_engines(settings: EngineSettings) -> AsyncIterator[Sequence[VllmEngine]]:
    """Load model and adapters in a thread, so that health checks are answered meanwhile; shut down on exit."""
    guard_forks()
    if settings.structured_outputs.backend == "guidance":
        # It follows no structural tags, which are vLLM's first choice for tools: JSON schemas are the second.
        os.environ.setdefault("VLLM_ENFORCE_STRICT_TOOL_CALLING", "0")
    # One thread for the engine's whole life: its processes die with the thread that created them.
    with ThreadPoolExecutor(1, thread_name_prefix="vllm") as thread:
        loop = asyncio.get_running_loop()
        template = await loop.run_in_executor(thread, check_chat_settings, settings.chats)
        llm, gauge, adapters = await loop.run_in_executor(thread, _load, settings)
        tokenizer = llm.get_tokenizer()
        config = llm.model_config
        content_format: Literal["string", "openai"] = "string"
        images = VllmImages(llm.renderer, config.max_model_len, template)
        if config.is_multimodal_model:
            # Theirs may be the processor's, and want parts even of text alone.
            content_format = resolve_chat_template_content_format(
                template, None, "auto", tokenizer, model_config=config
            )
            template = resolve_chat_template(tokenizer, template, None, model_config=config)
        prompts = Prompts(tokenizer, config.max_model_len, chat_template=template)
        parsing = Parsing()
        try:
            reasoning = llm.vllm_config.reasoning_config
            chats = VllmChats(
                tokenizer,
                config,
                settings.chats,
                content_format,
                bounds_reasoning=reasoning is not None and reasoning.enabled,
            )
            info = await loop.run_in_executor(thread, _info, llm, gauge, settings)
            info = replace(info, supports_images=images.is_supported)
            loaded = [await load_adapter(llm, info, one) for one in adapters]
            structured = settings.structured_outputs
            async with _open_trials(llm, structured) as trials:
                yield [
                    VllmEngine(
                        llm,
                        gauge,
                        of,
                        prompts,
                        chats,
                        parsing,
                        images,
                        structured,
                        trials,
                        adapter,
                    )
                    for of, adapter in ((info, None), *loaded)
                ]
        finally:
            prompts.close()
            parsing.close()
            images.close()
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


def _load(settings: EngineSettings) -> tuple[AsyncLLM, LoadGauge, Sequence[LoRARequest]]:
    """Load the model. Raises SettingsError in vLLM's words."""
    arguments, modules = engine_args(settings)
    adapters = adapters_of(modules, settings.served_name, settings.max_num_seqs)
    # It warns of every VLLM_ variable that it does not know. A mistyped one is still named.
    for name in NOT_VLLM_S:
        os.environ.pop(name, None)
    if settings.enforce_eager:
        # Otherwise parts of the sampler are compiled at the first request with logprobs, and all streams wait.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    context = UsageContext.ENGINE_CONTEXT
    try:
        config = arguments.create_engine_config(context)
    except (ValueError, TypeError, AssertionError, RuntimeError) as error:
        raise SettingsError(f"vLLM refuses its settings: {in_one_line(error)}") from error
    add_processor(config)
    gauge = LoadGauge()
    llm = AsyncLLM.from_vllm_config(
        config,
        usage_context=context,
        stat_loggers=[gauge.of_one_engine],
        # This concerns vLLM's own loggers; the gauge is ours and stays.
        disable_log_stats=True,
    )
    # Otherwise vLLM parses environment variables again for every token that it counts.
    enable_envs_cache()
    return llm, gauge, adapters


def _info(llm: AsyncLLM, gauge: LoadGauge, settings: EngineSettings) -> ModelInfo:
    return ModelInfo(
        name=settings.served_name,
        revision=_revision(llm, settings),
        max_model_len=llm.model_config.max_model_len,
        # Of each engine, where there are several (data parallelism).
        max_num_seqs=settings.max_num_seqs * gauge.engines,
        forces_tokens=has_processor(llm.model_config),
    )


def _revision(llm: AsyncLLM, settings: EngineSettings) -> str:
    """Return an identifier of these weights in this precision: the hub's commit, or a digest of local files."""
    config = llm.model_config
    commit = getattr(config.hf_config, "_commit_hash", None)
    if commit is None:
        commit = digest_of(Path(settings.repo_id))
    revision = f"{commit}/{str(config.dtype).removeprefix('torch.')}"
    if settings.engine_args:
        # Any of them may change what the same weights say.
        revision += f"/{hashlib.sha256(repr(settings.engine_args).encode()).hexdigest()[:8]}"
    return revision
