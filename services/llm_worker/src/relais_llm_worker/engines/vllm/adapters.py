"""LoRA adapters, each a model of its own, which the engine of its base runs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vllm.entrypoints.openai.models.protocol import LoRAModulePath
from vllm.lora.request import LoRARequest
from vllm.lora.utils import get_adapter_absolute_path
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from relais_common.jobs.channels import model_tag
from relais_common.jobs.errors import SettingsError
from relais_llm_worker.engine import ModelInfo
from relais_llm_worker.engines.vllm.arguments import in_one_line

_NAME = "VLLM_ENGINE_ARGS: --lora-modules"


def adapters_of(
    modules: Sequence[LoRAModulePath], base: str, max_num_seqs: int
) -> list[LoRARequest]:
    """Return the adapters that `--lora-modules` names. Raises SettingsError for a name that cannot be a model's."""
    names = [base]
    for module in modules:
        if module.name in names:
            raise SettingsError(f"{_NAME}: {module.name!r} names two models")
        if module.base_model_name not in (None, base):
            raise SettingsError(f"{_NAME}: {module.name!r} is for another model than {base!r}")
        try:
            model_tag(module.name)
        except ValueError as error:
            raise SettingsError(f"{_NAME}: {module.name!r}: {error}") from None
        names.append(module.name)
    if len(names) > max_num_seqs:
        raise SettingsError(
            f"VLLM_MAX_NUM_SEQS is {max_num_seqs}; with {len(modules)} adapters it takes at least {len(names)}"
        )
    return [
        LoRARequest(
            lora_name=module.name,
            lora_int_id=number,
            lora_path=module.path,
            base_model_name=base,
            is_3d_lora_weight=module.is_3d_lora_weight,
        )
        for number, module in enumerate(modules, 1)
    ]


async def load_adapter(
    llm: AsyncLLM, base: ModelInfo, adapter: LoRARequest
) -> tuple[ModelInfo, LoRARequest]:
    """Load an adapter into the engine. Raises SettingsError in vLLM's words."""
    try:
        await llm.add_lora(adapter)
    except EngineDeadError:
        raise
    except Exception as error:  # vLLM raises no narrower one
        raise SettingsError(f"{_NAME}: {in_one_line(error)}") from error
    digest = await asyncio.to_thread(_digest_of_adapter, adapter.lora_path)
    revision = f"{base.revision}/{digest}"
    return replace(base, name=adapter.lora_name, revision=revision, parent=base.name), adapter


def _digest_of_adapter(path: str) -> str:
    return digest_of(Path(get_adapter_absolute_path(path)))


def digest_of(folder: Path) -> str:
    """Return an identifier of a model's files: of their sizes and of the beginning of each."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".safetensors", ".bin", ".jinja"):
            digest.update(f"{path.name}:{path.stat().st_size}:".encode())
            with path.open("rb") as file:
                digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]
