"""The demo model in int8, in the form of the compressed-tensors library: weights by channel, activations by token."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from relais_testing.process_stack import DEMO_MODEL

_EIGHT_BITS = {"num_bits": 8, "type": "int", "symmetric": True}


def make_int8_model(folder: Path) -> Path:
    """Write it to the folder, which must not exist."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(DEMO_MODEL, folder, ignore=shutil.ignore_patterns("training"))
    weights = {}
    for name, weight in load_file(DEMO_MODEL / "model.safetensors").items():
        weights[name] = weight
        if name.endswith("_proj.weight"):
            exact = weight.float()
            scale = exact.abs().amax(1, keepdim=True) / 127
            weights[name] = (exact / scale).round().to(torch.int8)
            weights[f"{name}_scale"] = scale
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**_EIGHT_BITS, "strategy": "channel", "dynamic": False},
                "input_activations": {**_EIGHT_BITS, "strategy": "token", "dynamic": True},
            }
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
