"""One set of engine settings, as Relais's worker reads them and as `vllm serve` takes them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import orjson

from relais_llm_worker.settings import read_settings
from relais_testing.process_stack import DEMO_MODEL, MODEL, VLLM_ON_CPU

Environment = dict[str, str]

# Several engines share the machine's one GPU.
_ON_GPU = {
    "ENGINE": "vllm",
    "VLLM_HF_REPO_ID": str(DEMO_MODEL),
    "SERVED_MODEL_NAME": MODEL,
    "VLLM_TOOL_CALL_PARSER": "hermes",
    "VLLM_REASONING_PARSER": "deepseek_v3",
    "VLLM_GPU_MEMORY_UTILIZATION": "0.28",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
_TOOLS = {"VLLM_ENFORCE_STRICT_TOOL_CALLING": "0"}
_INHERITED = ("PATH", "HOME", "LANG")
_PASSED_ON = ("VLLM_", "HF_", "CUDA_", "OMP_", "LD_LIBRARY_PATH", "SERVED_MODEL_NAME")


def engine_environment(*, tools: bool = False) -> Environment:
    """What `scripts/bootstrap.sh` would give, and what the caller's own environment says otherwise.

    Args:
        tools: calls are demanded in the form that both sides have.
    """
    base = _ON_GPU if os.environ.get("RELAIS_DEVICE") == "cuda" else VLLM_ON_CPU
    given = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    environment = {**base, "VLLM_MAX_NUM_SEQS": "64", **(_TOOLS if tools else {}), **given}
    if read_settings(environment).engine.enforce_eager:
        # As Relais's worker sets it for its own engine: what one does not compile, the other does not.
        environment.setdefault("TORCHDYNAMO_DISABLE", "1")
    return environment


def serve_arguments(environment: Environment) -> list[str]:
    """Of `vllm serve`, for the engine that these settings give Relais's worker."""
    engine = read_settings(environment).engine
    options = {
        "served-model-name": engine.served_name,
        "dtype": engine.dtype,
        "max-model-len": engine.max_model_len,
        "max-num-seqs": engine.max_num_seqs,
        "kv-cache-memory-bytes": engine.kv_cache_memory_bytes,
        "tensor-parallel-size": engine.tensor_parallel_size,
        "gpu-memory-utilization": engine.gpu_memory_utilization,
        "download-dir": engine.models_cache_dir,
        "reasoning-parser": engine.chats.reasoning_parser,
    }
    arguments = [engine.repo_id]
    for name, value in options.items():
        if value is not None:
            arguments += [f"--{name}", str(value)]
    if engine.enforce_eager:
        arguments.append("--enforce-eager")
    if engine.chats.tool_call_parser is not None:
        grammars = engine.structured_outputs
        config = {
            "backend": grammars.backend,
            "disable_any_whitespace": grammars.disable_any_whitespace,
            "disable_additional_properties": grammars.disable_additional_properties,
        }
        arguments += ["--structured-outputs-config", orjson.dumps(config).decode()]
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser"]
        arguments.append(engine.chats.tool_call_parser)
    return arguments


async def run_vllm(arguments: Sequence[str], environment: Environment) -> str:
    """Run a module of vLLM's command line to its end, and return what it printed. RuntimeError where it fails."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        env={**inherited, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    printed = output.decode()
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments[:3])}:\n{printed[-4000:]}")
    return printed
