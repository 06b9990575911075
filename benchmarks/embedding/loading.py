"""The model as its makers' library loads it, for the references."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def load(environ: Mapping[str, str], kind: str = "SentenceTransformer") -> Any:
    """`EMBEDDING_MODEL` in `EMBEDDING_DTYPE`; on a GPU where there is one, as the worker does.

    With another `EMBEDDING_BACKEND` than torch, that one runs its transformer, as in the worker.
    """
    import sentence_transformers
    import torch

    from relais_embedding_worker.backends.runtime import runtime_of
    from relais_embedding_worker.backends.transformer import run_elsewhere
    from relais_embedding_worker.settings import read_settings

    settings = read_settings(environ).encoders[0]
    torch_runs_it = settings.backend == "torch"
    dtype = getattr(torch, settings.dtype or "float32") if torch_runs_it else torch.float32
    model = getattr(sentence_transformers, kind)(settings.model, model_kwargs={"dtype": dtype})
    if not torch_runs_it:
        columns = ["input_ids", "attention_mask"]
        if kind == "CrossEncoder":
            columns.append("token_type_ids")
        run_elsewhere(model, runtime_of(settings.backend), settings, "benchmark", columns)
    return model


def write_reranker(folder: Path) -> None:
    """Write a cross-encoder of the default model's size: its weights below a head of random ones."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from relais_embedding_worker.settings import read_settings

    encoder = read_settings({}).encoders[0].model
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1)
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
