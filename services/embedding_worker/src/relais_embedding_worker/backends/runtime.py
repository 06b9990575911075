"""The port of a runtime that runs a converted transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from relais_common.jobs.errors import SettingsError

Columns = Sequence[NDArray[np.int64]]
"""What a transformer reads: token ids and masks, each with a row for each input."""

Run = Callable[[Columns], NDArray[np.float32]]
"""Runs the transformer over one batch. One thread calls it."""

PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxruntime")}
"""What has to be installed for each runtime."""


class Runtime(Protocol):
    """Converts transformers and runs them. Its module is the only one that imports its library."""

    version: str
    """Files of another version are not read."""

    def convert(
        self, transformer: Any, names: Sequence[str], example: Sequence[Any], folder: Path
    ) -> None:
        """Write the transformer to the folder, for inputs of any size.

        Args:
            transformer: a torch module in fp32 that takes the columns and returns one tensor.
            names: of the columns.
            example: a batch as tensors.
        """

    def load(self, folder: Path, dtype: str, threads: int) -> Run:
        """Load what `convert` wrote, to compute in this precision."""


def is_installed(backend: str) -> bool:
    """Return whether a backend can be used here."""
    return all(find_spec(package) for package in PACKAGES.get(backend, ()))


def runtime_of(backend: str) -> Runtime:
    """Import a runtime. Raises SettingsError if it is not installed."""
    if not is_installed(backend):
        raise SettingsError(
            f"EMBEDDING_BACKEND is {backend}, which is not installed here: install requirements/{backend}.txt"
        )
    if backend == "openvino":
        from relais_embedding_worker.backends.runtime_openvino import OpenVino

        return OpenVino()
    from relais_embedding_worker.backends.runtime_onnx import OnnxRuntime

    return OnnxRuntime()
