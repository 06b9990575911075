"""The model as its makers' library loads it, for the two references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def load(environ: Mapping[str, str]) -> Any:
    """`EMBEDDING_MODEL` in `EMBEDDING_DTYPE`; on a GPU where there is one, as the worker does."""
    import torch
    from sentence_transformers import SentenceTransformer

    dtype = getattr(torch, environ["EMBEDDING_DTYPE"])
    return SentenceTransformer(environ["EMBEDDING_MODEL"], model_kwargs={"dtype": dtype})
