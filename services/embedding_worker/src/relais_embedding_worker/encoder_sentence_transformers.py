"""Encoders, rerankers and classifiers over sentence-transformers; the only module that imports it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers.utils import cached_file

from relais_common.jobs.errors import EngineRefused, SettingsError
from relais_common.jobs.job import InputType
from relais_embedding_worker.backends.choice import Candidate, fastest
from relais_embedding_worker.backends.runtime import PACKAGES, is_installed, runtime_of
from relais_embedding_worker.backends.transformer import run_elsewhere
from relais_embedding_worker.encoder import EncoderInfo, Input, Tokens, Vectors
from relais_embedding_worker.pairs import read_template
from relais_embedding_worker.settings import DTYPES, EncoderSettings
from relais_embedding_worker.text_tokens import TextTokenizer

_PROMPT_NAMES = {InputType.QUERY: ("query",), InputType.PASSAGE: ("document", "passage", "corpus")}
_COLUMNS = ("input_ids", "attention_mask")
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_PROBABILITIES = {
    "multi_label_classification": torch.nn.Sigmoid(),
    "regression": torch.nn.Identity(),
}
"""By the problem that a model says it was trained for; of others, classes exclude each other."""

_WEIGHTS = ("*.safetensors", "*.bin")

CPU_BATCH_TOKENS = 512
"""Tokens per thread: with more, MiniLM's intermediate results leave the caches (docs/performance.md)."""
GPU_BATCH_TOKENS = 16_384

PROBE_WORDS = 32_768
"""The longest text with which a reranker's pairs are compared with the library's."""


class SentenceTransformersEncoder:
    """Any text model whose first module has a tokenizer."""

    def __init__(self, settings: EncoderSettings) -> None:
        """Load the model. Raises SettingsError if it is of an unsupported kind."""
        self._model = _load(SentenceTransformer, settings)
        self._tokenizer = self._model.tokenizer
        if not callable(self._tokenizer) or not hasattr(self._tokenizer, "pad"):
            raise SettingsError(f"EMBEDDING_MODEL is {settings.model}; it has no tokenizer of text")
        default = self._model.default_prompt_name
        self._default_prompt: str = self._model.prompts[default] if default else ""
        self._prompts = {
            input_type: self._prompt_of(names) for input_type, names in _PROMPT_NAMES.items()
        }
        self._pools_prompt = all(getattr(one, "include_prompt", True) for one in self._model)
        max_tokens = _max_tokens(self._model)
        self._texts = TextTokenizer(self._tokenizer, max_tokens=max_tokens, special_tokens=True)
        revision, weight_bytes = _place(self._model, settings, _COLUMNS)
        self.info = EncoderInfo(
            dimensions=self._model.get_embedding_dimension(),
            max_tokens=max_tokens,
            normalized=type(self._model[-1]).__name__ == "Normalize",
            batch_tokens=_batch_tokens(self._model),
            shorter=self._shorter(),
            revision=revision,
            weight_bytes=weight_bytes,
        )

    def tokenize(
        self, inputs: Sequence[Input], input_type: InputType | None, reach: int
    ) -> list[Tokens | None]:
        prompt = self._default_prompt if input_type is None else self._prompts[input_type]
        length = 0
        if prompt and not self._pools_prompt:
            length = self._texts.length_before(prompt)
        return self._texts.tokens(inputs, reach, prompt=prompt, prompt_length=length)

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


class _SequenceModel:
    """A model that classifies sequences, which the library calls a cross-encoder, whatever it reads.

    Args:
        texts: of a sequence.
        activation: turns what the model gives into scores or probabilities.
    """

    def __init__(
        self, model: Any, settings: EncoderSettings, texts: int, activation: Any, prompt: str = ""
    ) -> None:
        self._model = model
        self._tokenizer = model.tokenizer
        self._activation = activation
        self._prompt = prompt
        max_tokens = _max_tokens(model)
        self._texts = TextTokenizer(self._tokenizer, max_tokens=max_tokens, special_tokens=False)
        self._template = read_template(self._tokenizer, texts)
        names = model[0].config.id2label
        labels = [str(names[at]) for at in range(model.num_labels)]
        revision, weight_bytes = _place(
            model,
            settings,
            _COLUMNS if self._template.types is None else (*_COLUMNS, "token_type_ids"),
        )
        self.info = EncoderInfo(
            dimensions=len(labels),
            max_tokens=max_tokens,
            normalized=False,
            batch_tokens=_batch_tokens(model),
            revision=revision,
            weight_bytes=weight_bytes,
            labels=() if len(labels) == 1 else tuple(labels),
        )

    def tokenize(
        self, inputs: Sequence[Input], input_type: InputType | None, reach: int
    ) -> list[Tokens | None]:
        prompt = self._prompt if input_type is InputType.QUERY else ""
        return self._texts.tokens(inputs, reach, prompt=prompt)

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        columns = {"input_ids": [list(tokens.ids) for tokens in batch]}
        if self._template.types is not None:
            columns["token_type_ids"] = [self._template.types_of(tokens) for tokens in batch]
        features = self._tokenizer.pad(columns, return_tensors="pt")
        features = {name: value.to(self._model.device) for name, value in features.items()}
        with torch.inference_mode():
            scores = self._activation(self._model(features)["scores"].float())
        rows: Vectors = scores.float().cpu().numpy().reshape(len(batch), self.info.dimensions)
        return rows


class SentenceTransformersClassifier(_SequenceModel):
    """A model with several labels. Its probabilities are those of transformers' text classification."""

    def __init__(self, model: Any, settings: EncoderSettings) -> None:
        activation = _PROBABILITIES.get(model[0].config.problem_type, torch.nn.Softmax(-1))
        super().__init__(model, settings, 1, activation)

    def complete(self, text: Tokens, max_tokens: int, *, special_tokens: bool) -> Tokens:
        own = len(self._template.before) + len(self._template.between) if special_tokens else 0
        if max_tokens <= own:
            raise EngineRefused(
                f"truncate_prompt_tokens: this model takes at least {own + 1}",
                param="truncate_prompt_tokens",
            )
        if not (text.ids or own):
            raise EngineRefused("input: without special tokens, a text is empty", param="input")
        if special_tokens:
            return self._template.join(text, Tokens(()), max_tokens)
        cut = text.truncated or len(text.ids) > max_tokens
        return Tokens(text.ids[:max_tokens], truncated=cut)


class SentenceTransformersReranker(_SequenceModel):
    """A cross-encoder with one label. Its scores are those of `CrossEncoder.predict`."""

    def __init__(self, model: Any, settings: EncoderSettings) -> None:
        """Raise SettingsError if the model reads pairs in an unknown way."""
        default = model.default_prompt_name
        prompt = model.prompts[default] if default else ""
        super().__init__(model, settings, 2, model.activation_fn, prompt)
        if not self._reads_as_the_library():
            raise SettingsError(
                f"EMBEDDING_MODEL is {settings.model}; pairs of texts are not written for it as known"
            )

    def pair(self, query: Tokens, document: Tokens) -> Tokens:
        return self._template.join(query, document, self.info.max_tokens)

    def _reads_as_the_library(self) -> bool:
        """Compare the pairs with sentence-transformers' own: chat templates and other truncation differ."""
        long = min(self.info.max_tokens, PROBE_WORDS)
        for query, document in (
            ("a", "b c"),
            ("a", "b " * long),
            ("a " * long, "b"),
            ("a " * long, "b c " * long),
        ):
            expected = self._model.preprocess([(query, document)], prompt=self._prompt)
            # After the library, whose truncation this takes off the tokenizer before threads share it.
            (first,) = self.tokenize([query], InputType.QUERY, len(self._prompt + query))
            (second,) = self.tokenize([document], InputType.PASSAGE, len(document))
            if first is None or second is None or "input_ids" not in expected:
                return False
            pair = self.pair(first, second)
            if expected["input_ids"].flatten().tolist() != list(pair.ids):
                return False
            types = expected.get("token_type_ids")
            if types is not None and types.flatten().tolist() != self._template.types_of(pair):
                return False
        return True


AnyModel = (
    SentenceTransformersEncoder | SentenceTransformersReranker | SentenceTransformersClassifier
)


def check_model(settings: EncoderSettings) -> None:
    """Raise SettingsError if the configuration of a model cannot be read, or its backend is not installed."""
    if settings.backend in PACKAGES:
        runtime_of(settings.backend)
    # The library looks for names without an organisation at its own, too.
    own = replace(settings, model=f"sentence-transformers/{settings.model}")
    known = [settings] if "/" in settings.model else [settings, own]
    if not any(_json_file(one, name) for one in known for name in ("config.json", "modules.json")):
        raise SettingsError(
            f"EMBEDDING_MODEL names {settings.model}, of which neither config.json nor modules.json can be read"
        )


def open_model(settings: EncoderSettings, choices: dict[str, Candidate]) -> AnyModel:
    """Load a model as what its files say it is.

    Args:
        choices: what `auto` chose, by the served names. It receives this model's, which is measured only if it is not
            there: the same model gives the same vectors as long as the worker runs.

    Raises:
        SettingsError: it is of an unsupported kind, or the backend cannot run it or is not installed.
    """

    def open_one(one: Candidate) -> AnyModel:
        return _opened(replace(settings, backend=one.backend, dtype=one.dtype))

    if settings.backend == "auto":
        name = settings.served_name
        if name in choices:
            return open_one(choices[name])
        encoder, choices[name] = fastest(_candidates(settings), open_one)
        return encoder
    if settings.backend in PACKAGES:
        # Before the model is loaded: it raises what is missing.
        runtime_of(settings.backend)
    return _opened(settings)


def _opened(settings: EncoderSettings) -> AnyModel:
    if not _classifies_sequences(settings):
        return SentenceTransformersEncoder(settings)
    model = _load(CrossEncoder, settings)
    if model.num_labels == 1:
        return SentenceTransformersReranker(model, settings)
    return SentenceTransformersClassifier(model, settings)


def _candidates(settings: EncoderSettings) -> Iterator[Candidate]:
    """Yield what `auto` chooses from here."""
    on_gpu = torch.cuda.is_available() if settings.device is None else settings.device != "cpu"
    # On CPUs, torch computes in float16 slowly.
    known = ("float32", "bfloat16", "float16") if on_gpu else ("float32", "bfloat16")
    for backend in ("torch", *(() if on_gpu else filter(is_installed, PACKAGES))):
        for dtype in known if settings.dtype is None else (settings.dtype,):
            if dtype in DTYPES[backend]:
                yield Candidate(backend, dtype)


def _classifies_sequences(settings: EncoderSettings) -> bool:
    """Return whether the model says that it is a cross-encoder, or has such a head."""
    own = _json_file(settings, "config_sentence_transformers.json")
    if "model_type" in own:
        return own["model_type"] == "CrossEncoder"
    architectures = _json_file(settings, "config.json").get("architectures") or [""]
    return str(architectures[0]).endswith("ForSequenceClassification")


def _json_file(settings: EncoderSettings, name: str) -> dict[str, Any]:
    """Return one of the model's files; empty if it has none, or none can be fetched or read."""
    try:
        path = cached_file(settings.model, name, cache_dir=settings.models_cache_dir)
        found: dict[str, Any] = {} if path is None else json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def _load(kind: Any, settings: EncoderSettings) -> Any:
    """Load a model by a class of the library."""
    torch_runs_it = settings.backend == "torch"
    dtype = settings.dtype if torch_runs_it else None
    model = kind(
        settings.model,
        device=settings.device if torch_runs_it else "cpu",
        cache_folder=settings.models_cache_dir,
        model_kwargs={"dtype": "auto" if dtype == "auto" else _TYPES[dtype or "float32"]},
    )
    # It refers back: the weights would stay in memory until a full garbage collection, which comes seldom.
    model.model_card_data.model = None
    return model.eval()


def _place(model: Any, settings: EncoderSettings, columns: Sequence[str]) -> tuple[str, int]:
    """Have the transformer run by the backend; return the revision, and the bytes of the weights.

    Args:
        columns: what it is given.
    """
    fingerprint = _fingerprint(settings.model)
    if settings.backend == "torch":
        size = sum(one.numel() * one.element_size() for one in model.parameters())
        return f"{fingerprint}-{model.dtype}", size
    size = run_elsewhere(model, runtime_of(settings.backend), settings, fingerprint, columns)
    return f"{fingerprint}-{settings.backend}.{settings.dtype or 'float32'}", size


def _batch_tokens(model: Any) -> int:
    if model.device.type != "cpu":
        return GPU_BATCH_TOKENS
    return min(torch.get_num_threads(), 8) * CPU_BATCH_TOKENS


def _max_tokens(model: Any) -> int:
    limit = model.max_seq_length or model.tokenizer.model_max_length
    return int(min(limit, 1 << 20))


def _fingerprint(model: str) -> str:
    """Return a digest of a folder's weights, or a model's name."""
    weights = sorted(one for kind in _WEIGHTS for one in Path(model).rglob(kind))
    if not weights:
        return model
    digest = hashlib.sha256()
    for path in weights:
        told = path.stat()
        digest.update(_digest(path, told.st_size, told.st_mtime_ns))
    return digest.hexdigest()[:16]


@cache
def _digest(path: Path, size: int, mtime_ns: int) -> bytes:
    """Return a file's digest. Size and time tell whether it is still the file that was read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
