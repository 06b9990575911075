"""`VLLM_ENGINE_ARGS`: options of `vllm serve` that have no setting of their own, read by vLLM's own parser."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError
from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.openai.models.protocol import LoRAModulePath
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from relais_common.jobs.error_texts import MAX_LENGTH
from relais_common.jobs.errors import SettingsError
from relais_llm_worker.settings import EngineSettings

NAME = "VLLM_ENGINE_ARGS"

_SETTINGS = {
    "chat_template": "VLLM_CHAT_TEMPLATE",
    "download_dir": "MODELS_CACHE_DIR",
    "dtype": "VLLM_DTYPE",
    "enable_auto_tool_choice": "VLLM_TOOL_CALL_PARSER",
    "enforce_eager": "VLLM_ENFORCE_EAGER",
    "gpu_memory_utilization": "VLLM_GPU_MEMORY_UTILIZATION",
    "kv_cache_memory_bytes": "VLLM_KV_CACHE_MEMORY_BYTES",
    "max_model_len": "VLLM_MAX_MODEL_LEN",
    "max_num_seqs": "VLLM_MAX_NUM_SEQS",
    "model": "VLLM_HF_REPO_ID",
    "model_tag": "VLLM_HF_REPO_ID",
    "reasoning_parser": "VLLM_REASONING_PARSER",
    "served_model_name": "SERVED_MODEL_NAME",
    "structured_outputs_config": "VLLM_STRUCTURED_OUTPUTS_CONFIG",
    "tensor_parallel_size": "VLLM_TENSOR_PARALLEL_SIZE",
    "tool_call_parser": "VLLM_TOOL_CALL_PARSER",
}
_FIXED = {
    "convert": "embedding models have a worker of their own",
    "disable_log_stats": "the worker reads the engine's statistics",
    "enable_log_requests": "prompts are not logged",
    "runner": "embedding models have a worker of their own",
    "skip_tokenizer_init": "the worker needs the tokenizer",
}


class _Parser(FlexibleArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def engine_args(settings: EngineSettings) -> tuple[AsyncEngineArgs, list[LoRAModulePath]]:
    """Return the engine's arguments, and the LoRA adapters to load. Raises SettingsError as `read_engine_args` does."""
    structured_outputs = settings.structured_outputs
    given = read_engine_args(settings.engine_args)
    adapters = given.pop("lora_modules", [])
    if adapters:
        # All at once, or the engine would keep some requests waiting while others have room.
        given = {"enable_lora": True, "max_loras": len(adapters)} | given
    if current_platform.is_cpu():
        given = _on_a_cpu(given, len(adapters))
    arguments = AsyncEngineArgs(
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
            backend=structured_outputs.backend,
            disable_any_whitespace=structured_outputs.disable_any_whitespace,
            disable_additional_properties=structured_outputs.backend == "guidance"
            and structured_outputs.disable_additional_properties,
        ),
        reasoning_parser=settings.chats.reasoning_parser or "",
        **given,
    )
    return arguments, adapters


def _on_a_cpu(given: dict[str, Any], adapters: int) -> dict[str, Any]:
    """Return the arguments with which vLLM's CPU build gives what it should.

    - A seeded request whose prompt is taken in pieces ends the engine: it sets the random numbers back after each piece
      but the last, which PyTorch's generator of a CPU cannot.
    - A request without an adapter gets that of the last slot while another request of the batch has one. One slot more
      than there are adapters stays empty.
    """
    if adapters:
        given |= {"max_loras": max(given["max_loras"], adapters + 1)}
    return {"enable_chunked_prefill": False} | given


def read_engine_args(words: Sequence[str]) -> dict[str, Any]:
    """Return the given arguments of `AsyncEngineArgs`, and `lora_modules`.

    Raises:
        SettingsError: in vLLM's words, or naming the setting to use instead.
    """
    parser = make_arg_parser(_Parser(add_help=False))
    # Options that are given are told from those that are not, whatever their values.
    unset: list[Any] = []
    parser.set_defaults(**dict.fromkeys(vars(parser.parse_args([])), unset))
    try:
        parsed: Namespace = parser.parse_args(list(words))
    except (ValueError, AssertionError, TypeError, OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{NAME}: {in_one_line(error)}") from None
    except IndexError:
        raise SettingsError(f"{NAME}: {words[-1]} has no value") from None
    given = {name: value for name, value in vars(parsed).items() if value is not unset}
    engine_options = {field.name for field in fields(AsyncEngineArgs)}
    for name in given:
        option = "the model" if name == "model_tag" else f"--{name.replace('_', '-')}"
        if name in _SETTINGS:
            raise SettingsError(f"{NAME}: {option} is set by {_SETTINGS[name]}")
        if name in _FIXED:
            raise SettingsError(f"{NAME}: {option} cannot be set: {_FIXED[name]}")
        if name not in engine_options and name != "lora_modules":
            raise SettingsError(
                f"{NAME}: {option} is an option of vLLM's server, not of its engine"
            )
    return given


def in_one_line(error: Exception) -> str:
    """Return vLLM's message without line breaks."""
    message = str(error)
    if isinstance(error, ValidationError):
        found = error.errors()[0]
        where = (error.title, ".".join(map(str, found["loc"])), found["msg"])
        message = ": ".join(filter(None, where))
    # pydantic's advice
    message = message.partition("For further information visit")[0]
    return " ".join(message.split())[:MAX_LENGTH]
