"""A sentence-transformers model with random weights, made in a moment: for what MiniLM has not got."""

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


def make_encoder(folder: Path, *, pools_prompt: bool = True, **config: Any) -> Path:
    """Write it to the folder. It has prompts; what is in `config` stands in its `config.json`."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    bare = folder / "bare"
    bare.mkdir(parents=True)
    numbered = {token: number for number, token in enumerate(VOCABULARY)}
    BertTokenizerFast(vocab=numbered).save_pretrained(bare)
    torch.manual_seed(1)
    BertModel(
        BertConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=DIMENSIONS,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=MAX_TOKENS,
            **config,
        )
    ).save_pretrained(bare)
    modules = [
        Transformer(str(bare), max_seq_length=MAX_TOKENS),
        Pooling(DIMENSIONS, pooling_mode="mean", include_prompt=pools_prompt),
        Normalize(),
    ]
    model = SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"
