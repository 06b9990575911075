"""The encoder over sentence-transformers; the only module that imports it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from relais_common.jobs.errors import EngineRefused, SettingsError
from relais_common.jobs.job import InputType
from relais_embedding_worker.encoder import EncoderInfo, Input, Tokens, Vectors
from relais_embedding_worker.settings import EncoderSettings

_PROMPT_NAMES = {InputType.QUERY: ("query",), InputType.PASSAGE: ("document", "passage", "corpus")}
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CPU_BATCH_TOKENS = 512
"""Tokens per thread: with more, MiniLM's intermediate results leave the caches (docs/performance.md)."""
GPU_BATCH_TOKENS = 16_384

UNSURE_WORDS = 3
"""Words before a cut whose tokens may differ in the whole text, because they are cut or depend on what follows."""


class SentenceTransformersEncoder:
    """Any text model whose first module has a tokenizer."""

    def __init__(self, settings: EncoderSettings) -> None:
        """Load the model. Raises SettingsError if it is of an unsupported kind."""
        self._model: Any = SentenceTransformer(
            settings.model,
            device=settings.device,
            cache_folder=settings.models_cache_dir,
            model_kwargs={"dtype": "auto" if settings.dtype == "auto" else _TYPES[settings.dtype]},
        )
        self._model.eval()
        self._tokenizer = self._model.tokenizer
        if not callable(self._tokenizer) or not hasattr(self._tokenizer, "pad"):
            raise SettingsError(f"EMBEDDING_MODEL is {settings.model}; it has no tokenizer of text")
        default = self._model.default_prompt_name
        self._default_prompt: str = self._model.prompts[default] if default else ""
        self._prompts = {
            input_type: self._prompt_of(names) for input_type, names in _PROMPT_NAMES.items()
        }
        self._pools_prompt = all(getattr(one, "include_prompt", True) for one in self._model)
        self._lead, self._tail = self._special_ids()
        self.info = EncoderInfo(
            dimensions=self._model.get_embedding_dimension(),
            max_tokens=self._max_tokens(),
            normalized=type(self._model[-1]).__name__ == "Normalize",
            batch_tokens=self._batch_tokens(),
            shorter=self._shorter(),
            revision=f"{_fingerprint(settings.model)}-{self._model.dtype}",
        )

    def tokenize(
        self, inputs: Sequence[Input], input_type: InputType | None, reach: int
    ) -> list[Tokens | None]:
        prompt = self._default_prompt if input_type is None else self._prompts[input_type]
        texts = [prompt + one for one in inputs if isinstance(one, str)]
        prompt_length = 0
        if prompt and not self._pools_prompt:
            prompt_length = len(self._ids([prompt])[0]) - len(self._tail)
        tokens = iter(self._of_texts(texts, prompt_length, reach))
        return [
            next(tokens)
            if isinstance(one, str)
            else self._cut([*self._lead, *self._known(one), *self._tail], 0)
            for one in inputs
        ]

    def _of_texts(
        self, texts: Sequence[str], prompt_length: int, reach: int
    ) -> Iterator[Tokens | None]:
        if not self._tokenizer.is_fast:
            reach = max(map(len, texts), default=0)
        whole = [text for text in texts if len(text) <= reach]
        ids_of_whole = iter(self._ids(whole) if whole else ())
        for text in texts:
            if len(text) <= reach:
                yield self._cut(next(ids_of_whole), prompt_length)
                continue
            ids = self._ids_before_cut(text[:reach])
            if len(ids) + len(self._tail) > self.info.max_tokens:
                yield self._cut([*ids, *self._tail], prompt_length)
            else:
                yield None

    def _ids_before_cut(self, begin: str) -> list[int]:
        """Return the ids that are certain for any text that begins so: all but those of the last words."""
        encoded = self._encoded([begin]).encodings[0]
        words = encoded.word_ids
        last = max((word for word in words if word is not None), default=-1)
        sure = last - UNSURE_WORDS
        count = next(
            (at for at, word in enumerate(words) if word is not None and word > sure),
            len(self._lead),
        )
        ids: list[int] = encoded.ids[:count]
        return ids

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        # One prompt length at a time, because pooling takes a single one.
        lengths = {tokens.prompt_length for tokens in batch}
        rows = np.empty((len(batch), self.info.dimensions), np.float32)
        for length in lengths:
            at = [index for index, tokens in enumerate(batch) if tokens.prompt_length == length]
            rows[at] = self._encode([batch[index] for index in at], length)
        return rows

    def _encode(self, batch: Sequence[Tokens], prompt_length: int) -> Vectors:
        features: dict[str, Any] = dict(
            self._tokenizer.pad(
                {"input_ids": [list(tokens.ids) for tokens in batch]}, return_tensors="pt"
            )
        )
        features = {name: value.to(self._model.device) for name, value in features.items()}
        if prompt_length:
            features["prompt_length"] = prompt_length
        with torch.inference_mode():
            rows: Vectors = self._model(features)["sentence_embedding"].float().cpu().numpy()
        if self.info.normalized and self._model.dtype != torch.float32:
            # A vector rounded to bf16 no longer has length 1 exactly.
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._encoded(texts)["input_ids"]
        return ids

    def _encoded(self, texts: Sequence[str]) -> Any:
        return self._tokenizer(
            list(texts),
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )

    def _cut(self, ids: Sequence[int], prompt_length: int) -> Tokens:
        """Truncate as the tokenizer does: drop the end, keep special tokens."""
        limit = self.info.max_tokens
        if len(ids) <= limit:
            return Tokens(tuple(ids), prompt_length)
        kept = ids[: limit - len(self._tail)]
        return Tokens((*kept, *self._tail), prompt_length, truncated=True)

    def _known(self, ids: Sequence[int]) -> Sequence[int]:
        size = len(self._tokenizer)
        for token_id in (min(ids, default=0), max(ids, default=0)):
            if not 0 <= token_id < size:
                raise EngineRefused(f"token id {token_id} is not in the vocabulary", param="input")
        return ids[: self.info.max_tokens + 1]

    def _prompt_of(self, names: Sequence[str]) -> str:
        """Return the first non-empty prompt of these names; the default one if the model has none of them."""
        prompts = self._model.prompts
        known = [prompts[name] for name in names if name in prompts]
        return next(filter(None, known), "") if known else self._default_prompt

    def _shorter(self) -> Collection[int]:
        """Return the shorter dimensions from the model's `config.json`, as vLLM reads it."""
        config = getattr(getattr(self._model[0], "auto_model", None), "config", None)
        dimensions = getattr(config, "matryoshka_dimensions", None)
        if dimensions:
            return tuple(sorted(int(one) for one in dimensions))
        if getattr(config, "is_matryoshka", False):
            return range(1, self._model.get_embedding_dimension())
        return ()

    def _special_ids(self) -> tuple[list[int], list[int]]:
        """Return the tokens that the tokenizer puts before and after every text."""
        encoded = self._tokenizer("a", return_special_tokens_mask=True)
        mask, ids = encoded["special_tokens_mask"], encoded["input_ids"]
        first = mask.index(0)
        last = len(mask) - mask[::-1].index(0)
        return ids[:first], ids[last:]

    def _batch_tokens(self) -> int:
        if self._model.device.type != "cpu":
            return GPU_BATCH_TOKENS
        return min(torch.get_num_threads(), 8) * CPU_BATCH_TOKENS

    def _max_tokens(self) -> int:
        limit = self._model.max_seq_length or self._tokenizer.model_max_length
        return int(min(limit, 1 << 20))


def _fingerprint(model: str) -> str:
    """Return a digest of a folder's weights, or a model's name."""
    weights = sorted(Path(model).glob("*.safetensors")) if Path(model).is_dir() else []
    if not weights:
        return model
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
