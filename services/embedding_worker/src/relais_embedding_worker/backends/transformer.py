"""Lets another runtime run the transformer of a loaded sentence-transformers model."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
import torch
import transformers
from huggingface_hub import constants

from relais_common.jobs.errors import SettingsError
from relais_embedding_worker.backends.conversions import converted
from relais_embedding_worker.backends.runtime import Run, Runtime
from relais_embedding_worker.settings import EncoderSettings

log = structlog.get_logger(__name__)

FORMAT = 1
"""Raise it when what is converted changes: files of another format are not read."""


class _Traced(torch.nn.Module):
    """A transformer as converters need it: columns in, one tensor out."""

    def __init__(self, transformer: Any, names: Sequence[str], output: str) -> None:
        super().__init__()
        self._transformer = transformer
        self._names = names
        self._output = output

    def forward(self, *columns: Any) -> Any:
        given = dict(zip(self._names, columns, strict=True))
        return self._transformer(**given, return_dict=True)[self._output]


class _Elsewhere(torch.nn.Module):
    """Stands in for a transformer that a runtime runs. Everything after it, as pooling, stays torch's."""

    def __init__(self, config: Any, run: Run, names: Sequence[str], output: str) -> None:
        super().__init__()
        self.config = config
        self._run = run
        self._names = names
        self._output = output

    def forward(self, **features: Any) -> dict[str, Any]:
        rows = self._run([features[name].numpy() for name in self._names])
        return {self._output: torch.from_numpy(rows)}


def run_elsewhere(
    model: Any, runtime: Runtime, settings: EncoderSettings, fingerprint: str, names: Sequence[str]
) -> int:
    """Replace the transformer of a model, which is converted at its first use. Return the bytes of its files.

    Args:
        model: on the CPU, in fp32.
        fingerprint: identifies its weights.
        names: of the columns that it is given.

    Raises:
        SettingsError: it cannot be converted, or the folder cannot be written.
    """
    module = model[0]
    text = getattr(module, "modality_config", {}).get("text", {})
    output = text.get("method_output_name")
    if isinstance(output, (list, tuple)) and len(output) == 1:
        (output,) = output
    if text.get("method") != "forward" or not isinstance(output, str):
        raise _inconvertible(settings)

    def convert(folder: Path) -> None:
        example = module.tokenizer(["a b c", "d"], padding=True, return_tensors="pt")
        columns = [
            example[name] if name in example else torch.zeros_like(example["input_ids"])
            for name in names
        ]
        traced = _Traced(module.model, names, output).eval()
        with torch.no_grad(), warnings.catch_warnings():
            # Tracing warns of every branch of the model's code.
            warnings.simplefilter("ignore")
            try:
                runtime.convert(traced, names, columns, folder)
            except OSError:
                # Of the folder, not of the model.
                raise
            except Exception as error:
                log.exception("model_conversion_failed", model=settings.model)
                raise _inconvertible(settings) from error

    folder = converted(
        Path(settings.models_cache_dir or constants.HF_HOME),
        _folder_name(settings.model, [runtime.version, fingerprint, list(names)], module.config),
        convert,
    )
    dtype = settings.dtype or "float32"
    run = runtime.load(folder, dtype, torch.get_num_threads())
    module.model = _Elsewhere(module.config, run, names, output)
    return sum(path.stat().st_size for path in folder.iterdir())


def _inconvertible(settings: EncoderSettings) -> SettingsError:
    return SettingsError(
        f"EMBEDDING_MODEL is {settings.model}, which only EMBEDDING_BACKEND=torch can run"
    )


def _folder_name(model: str, parts: Sequence[Any], config: Any) -> str:
    """Return a name that differs whenever the converted files would."""
    commit = getattr(config, "_commit_hash", None)
    versions = [FORMAT, torch.__version__, transformers.__version__]
    told = json.dumps([*versions, *parts, commit, config.to_json_string()])
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name)
    return f"{readable}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
