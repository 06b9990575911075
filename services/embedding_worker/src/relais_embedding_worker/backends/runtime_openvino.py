"""OpenVINO on CPUs; the only module that imports it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as operations

from relais_embedding_worker.backends.runtime import Columns, Run

_FILE = "model.xml"
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
_INT8_MOST = 127


class OpenVino:
    """Runs transformers by OpenVINO."""

    version = f"openvino-{openvino.__version__}"

    def convert(
        self, transformer: Any, names: Sequence[str], example: Sequence[Any], folder: Path
    ) -> None:
        model = openvino.convert_model(transformer, example_input=tuple(example))
        model.reshape({index: [-1, -1] for index in range(len(names))})
        openvino.save_model(model, folder / _FILE, compress_to_fp16=False)

    def load(self, folder: Path, dtype: str, threads: int) -> Run:
        core = openvino.Core()
        model = core.read_model(folder / _FILE)
        if dtype == "int8":
            _quantize(model)
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": threads,
                # Several workers, or other processes, may share the cores.
                "ENABLE_CPU_PINNING": False,
                # By default it computes in bf16 wherever the CPU can.
                "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
            },
        )
        request = compiled.create_infer_request()

        def run(columns: Columns) -> Any:
            return request.infer(list(columns), share_inputs=True)[0]

        return run


def _quantize(model: Any) -> None:
    """Round the weights of linear layers to 8 bits, with a scale for each output.

    OpenVINO then rounds what they are multiplied with, too, as it runs, and multiplies integers.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        weights = node.input_value(1).get_node()
        if weights.get_type_name() != "Constant" or len(weights.shape) != 2:
            continue
        values = np.asarray(weights.data)
        inputs = 1 if node.get_attributes()["transpose_b"] else 0
        scales = np.abs(values).max(axis=inputs, keepdims=True) / _INT8_MOST
        scales = np.maximum(scales, np.finfo(np.float32).tiny).astype(np.float32)
        rounded = operations.constant(np.rint(values / scales).astype(np.int8))
        restored = operations.multiply(
            operations.convert(rounded, "f32"), operations.constant(scales)
        )
        node.input(1).replace_source_output(restored.output(0))
    model.validate_nodes_and_infer_types()
