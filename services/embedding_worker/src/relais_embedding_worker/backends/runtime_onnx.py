"""ONNX Runtime on CPUs; the only module that imports it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from relais_embedding_worker.backends.runtime import Columns, Run

_FILE = "model.onnx"
_OPSET = 17


class OnnxRuntime:
    """Runs transformers by ONNX Runtime."""

    version = f"onnxruntime-{onnxruntime.__version__}"

    def convert(
        self, transformer: Any, names: Sequence[str], example: Sequence[Any], folder: Path
    ) -> None:
        torch.onnx.export(
            transformer,
            tuple(example),
            str(folder / _FILE),
            input_names=list(names),
            output_names=["rows"],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in names},
            opset_version=_OPSET,
            # The newer exporter needs onnxscript, and fixes sizes that it has seen.
            dynamo=False,
        )

    def load(self, folder: Path, dtype: str, threads: int) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Spinning threads would take cores from the event loop and from other processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            str(folder / _FILE), options, providers=["CPUExecutionProvider"]
        )
        names = [one.name for one in session.get_inputs()]

        def run(columns: Columns) -> Any:
            return session.run(None, dict(zip(names, columns, strict=True)))[0]

        return run
