"""Write the model folder, and read it back as a user would."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def save(network: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write weights in bfloat16, configuration, tokenizer and chat template."""
    out.mkdir(parents=True, exist_ok=True)
    network.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    generation = {
        # Greedy by default: a model this small loses its thread when it is sampled. No max_new_tokens here,
        # since vLLM would take it for a limit of the server.
        "do_sample": False,
        "temperature": 0.0,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    (out / "generation_config.json").write_text(
        json.dumps(generation, indent=2) + "\n", encoding="utf-8"
    )
    open_to_all(out)


def open_to_all(out: Path) -> None:
    """Make every file readable: the weights are written for their owner alone, and a server may run as another."""
    for path in _files(out):
        path.chmod(0o644)


def load(out: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Read the folder back in fp32."""
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(out)
    for name in (
        "is_local",
        "local_files_only",
    ):  # of how it was read, and would be written with it
        tokenizer.init_kwargs.pop(name, None)
    network = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
    # Ours is for servers, and not what this library would write.
    network.generation_config = GenerationConfig.from_model_config(network.config)
    network.eval()
    return network, tokenizer


def size_bytes(out: Path) -> int:
    """Bytes of all files that make up the model."""
    return sum(path.stat().st_size for path in _files(out))


def _files(out: Path) -> list[Path]:
    """The model's own files; the trainer's folder beside them is not part of it."""
    return [path for path in out.iterdir() if path.is_file()]
