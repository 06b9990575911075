"""Small LoRA adapters of the demo model with random weights; each gives its own noise."""

from __future__ import annotations

import json
from pathlib import Path

from relais_testing.process_stack import DEMO_MODEL

RANK = 4


def make_adapter(folder: Path, seed: int) -> Path:
    """Write an adapter to the folder, in the format of the peft library."""
    import numpy as np
    from safetensors.numpy import save_file

    model = json.loads((DEMO_MODEL / "config.json").read_text())
    size, heads = model["hidden_size"], model["num_attention_heads"] * model["head_dim"]
    random = np.random.default_rng(seed)
    weights = {}
    for layer in range(model["num_hidden_layers"]):
        for module in ("q_proj", "v_proj"):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            weights[f"{name}.lora_A.weight"] = random.normal(0, size**-0.5, (RANK, size))
            weights[f"{name}.lora_B.weight"] = random.normal(0, 1.5, (heads, RANK))
    folder.mkdir(parents=True)
    save_file(
        {name: weight.astype(np.float32) for name, weight in weights.items()},
        folder / "adapter_model.safetensors",
    )
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "relais-demo",
        "r": RANK,
        "lora_alpha": RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
