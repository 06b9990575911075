"""Small sentence-transformers models with random weights, for features that MiniLM lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *"the town hall opens at nine cats sleep query passage : . a b c ##s".split(),
]
PROMPTS = {"query": "query: ", "passage": "passage: "}
DIMENSIONS = 32
MAX_TOKENS = 24
_SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": DIMENSIONS,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": MAX_TOKENS,
}


def make_encoder(folder: Path, *, pools_prompt: bool = True, **config: Any) -> Path:
    """Write a model with prompts to the folder; `config` is added to its `config.json`."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    bare = folder / "bare"
    _save(bare, BertModel, BertConfig(**_SIZES, **config))
    modules = [
        Transformer(str(bare), max_seq_length=MAX_TOKENS),
        Pooling(DIMENSIONS, pooling_mode="mean", include_prompt=pools_prompt),
        Normalize(),
    ]
    model = SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"


def make_reranker(folder: Path, *, labels: int = 1, **config: Any) -> Path:
    """Write a cross-encoder, or a classifier with several labels; `config` is added to its `config.json`."""
    from transformers import BertConfig, BertForSequenceClassification

    # Weights of the usual size would give all pairs nearly the same score.
    sizes = {**_SIZES, "num_labels": labels, "initializer_range": 0.5}
    _save(folder / "model", BertForSequenceClassification, BertConfig(**sizes, **config))
    return folder / "model"


def _save(folder: Path, kind: Any, config: Any) -> None:
    import torch
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True)
    numbered = {token: number for number, token in enumerate(VOCABULARY)}
    BertTokenizerFast(vocab=numbered).save_pretrained(folder)
    torch.manual_seed(1)
    kind(config).save_pretrained(folder)
