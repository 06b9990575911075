"""Encoder, reranker and classifier beside the library they run on: precisions, prompts, fewer dimensions, pairs."""

from __future__ import annotations

import gc
import os
import random
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relais_common.jobs.errors import EngineRefused, SettingsError
from relais_common.jobs.job import InputType
from relais_embedding_worker.backends import choice, runtime
from relais_embedding_worker.backends.choice import Candidate
from relais_embedding_worker.backends.runtime import runtime_of
from relais_embedding_worker.encoder import Classifier, Encoder, Input, Reranker, Tokens
from relais_embedding_worker.settings import EncoderSettings, read_settings
from relais_testing.contracts.encoder import (
    ClassifierContract,
    EncoderContract,
    RerankerContract,
)
from relais_testing.encoders import whole
from relais_testing.tiny_encoder import DIMENSIONS, MAX_TOKENS, make_encoder, make_reranker

# Makers' warnings at import and load, which are not ours to mend.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

WHOLE = 1 << 30
TEXTS = ["", "the town hall opens at nine.", "cats sleep", "a b c " * 40, "🦄 🦄"]
WORDS = "the town hall opens at nine on monday and the cat sleeps émoji 🦄 où".split()


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    yield
    if before is None:
        del os.environ["HF_HUB_OFFLINE"]


@pytest.fixture(autouse=True)
def measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `auto`, what is chosen matters here, and not how surely it is the fastest."""
    monkeypatch.setattr(choice, "MEASURE_S", 0.0)


class TestSentenceTransformers(EncoderContract):
    @pytest.fixture(scope="class")
    def encoder(self) -> Encoder:
        encoder: Encoder = open_encoder()
        return encoder


class TestSentenceTransformersReranker(RerankerContract):
    @pytest.fixture(scope="class")
    def encoder(self, tmp_path_factory: pytest.TempPathFactory) -> Reranker:
        folder = make_reranker(tmp_path_factory.mktemp("reranker"))
        encoder: Reranker = open_encoder(EMBEDDING_MODEL=str(folder))
        return encoder


class TestSentenceTransformersClassifier(ClassifierContract):
    @pytest.fixture(scope="class")
    def encoder(self, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
        folder = make_reranker(tmp_path_factory.mktemp("classifier"), labels=3)
        encoder: Classifier = open_encoder(EMBEDDING_MODEL=str(folder))
        return encoder


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


class TestConverted(EncoderContract):
    @pytest.fixture(scope="class")
    def encoder(self, backend: str, cache: Path) -> Encoder:
        encoder: Encoder = open_encoder(EMBEDDING_BACKEND=backend, MODELS_CACHE_DIR=str(cache))
        return encoder


class TestConvertedReranker(RerankerContract):
    @pytest.fixture(scope="class")
    def encoder(
        self, backend: str, cache: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> Reranker:
        folder = make_reranker(tmp_path_factory.mktemp("reranker"))
        encoder: Reranker = open_encoder(
            EMBEDDING_MODEL=str(folder), EMBEDDING_BACKEND=backend, MODELS_CACHE_DIR=str(cache)
        )
        return encoder


def open_encoder(**settings: str) -> Any:
    from relais_embedding_worker.encoder_sentence_transformers import open_model

    return open_model(settings_of(**settings), {})


def settings_of(**settings: str) -> EncoderSettings:
    return read_settings({"EMBEDDING_DEVICE": "cpu", **settings}).encoders[0]


def library(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def vectors(encoder: Any, inputs: list[Input], input_type: InputType | None = None) -> Any:
    return encoder.encode(encoder.tokenize(inputs, input_type, WHOLE))


def test_bfloat16_is_near_and_has_length_one() -> None:
    rng = random.Random(3)
    texts: list[Input] = [" ".join(rng.choices(WORDS, k=rng.choice((1, 8, 50)))) for _ in range(24)]
    exact = vectors(open_encoder(), [*texts, ""])
    rounded = vectors(open_encoder(EMBEDDING_DTYPE="bfloat16"), [*texts, ""])

    assert rounded.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1.0, atol=1e-6)
    assert np.sum(exact * rounded, axis=1).min() >= 0.998
    assert not np.array_equal(exact, rounded)


def test_backends_give_the_vectors_and_the_scores_of_torch(
    backend: str, cache: Path, tmp_path: Path
) -> None:
    rng = random.Random(5)
    texts: list[Input] = [" ".join(rng.choices(WORDS, k=rng.choice((1, 8, 90)))) for _ in range(24)]
    converting = {"EMBEDDING_BACKEND": backend, "MODELS_CACHE_DIR": str(cache)}
    bare = {"EMBEDDING_MODEL": str(make_encoder(tmp_path / "encoder", pools_prompt=False))}
    for model in ({}, bare):
        converted, exact = open_encoder(**model, **converting), open_encoder(**model)
        for input_type in (None, InputType.QUERY):
            np.testing.assert_allclose(
                vectors(converted, [*texts, ""], input_type),
                vectors(exact, [*texts, ""], input_type),
                atol=1e-5,
            )
    model = {"EMBEDDING_MODEL": str(make_reranker(tmp_path / "reranker"))}
    pairs = [(str(one), str(other)) for one in texts[:5] for other in texts]
    expected, found = (open_encoder(**model, **backend) for backend in ({}, converting))
    np.testing.assert_allclose(
        found.encode(pairs_of(found, pairs)), expected.encode(pairs_of(expected, pairs)), atol=1e-4
    )


def test_a_model_is_converted_once(
    backend: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_encoder(EMBEDDING_BACKEND=backend, MODELS_CACHE_DIR=str(cache))
    kind = type(runtime_of(backend))
    monkeypatch.setattr(kind, "convert", None)
    again = open_encoder(EMBEDDING_BACKEND=backend, MODELS_CACHE_DIR=str(cache))
    assert again.info.revision == first.info.revision
    monkeypatch.setattr(kind, "version", "another")
    with pytest.raises(SettingsError, match="only EMBEDDING_BACKEND=torch"):
        open_encoder(EMBEDDING_BACKEND=backend, MODELS_CACHE_DIR=str(cache))


def test_auto_chooses_what_agrees_with_torch(cache: Path) -> None:
    rng = random.Random(5)
    texts: list[Input] = [" ".join(rng.choices(WORDS, k=rng.choice((1, 8, 90)))) for _ in range(24)]
    chosen = open_encoder(EMBEDDING_BACKEND="auto", MODELS_CACHE_DIR=str(cache))
    exact = vectors(open_encoder(), texts)
    assert np.sum(vectors(chosen, texts) * exact, axis=1).min() >= 0.998


def test_auto_keeps_to_a_precision_that_is_set(tmp_path: Path) -> None:
    model = {"EMBEDDING_MODEL": str(make_encoder(tmp_path))}
    auto = {"EMBEDDING_BACKEND": "auto", "MODELS_CACHE_DIR": str(tmp_path / "converted")}
    chosen = open_encoder(EMBEDDING_DTYPE="float32", **auto, **model)
    np.testing.assert_allclose(
        vectors(chosen, [*TEXTS]), vectors(open_encoder(**model), [*TEXTS]), atol=1e-5
    )


def test_auto_chooses_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from relais_embedding_worker import encoder_sentence_transformers as module

    settings = settings_of(
        EMBEDDING_MODEL=str(make_encoder(tmp_path)),
        EMBEDDING_BACKEND="auto",
        EMBEDDING_DTYPE="float32",
        MODELS_CACHE_DIR=str(tmp_path / "converted"),
    )
    choices: dict[str, Candidate] = {}
    revision = module.open_model(settings, choices).info.revision
    monkeypatch.setattr(module, "fastest", None)
    assert module.open_model(settings, choices).info.revision == revision


@pytest.mark.parametrize("ran_by", ["torch", "onnx", "openvino", "reranker"])
def test_a_model_that_is_let_go_leaves_memory_at_once(ran_by: str, tmp_path: Path) -> None:
    make = make_reranker if ran_by == "reranker" else make_encoder
    settings = {"MODELS_CACHE_DIR": str(tmp_path), "EMBEDDING_MODEL": str(make(tmp_path))}
    if ran_by != "reranker":
        settings["EMBEDDING_BACKEND"] = ran_by
    gc.collect()
    gc.disable()
    try:
        encoder = open_encoder(**settings)
        refs = [weakref.ref(one) for one in (encoder._model, *encoder._model.parameters())]
        del encoder
        assert not any(ref() is not None for ref in refs)
    finally:
        gc.enable()


def test_weights_of_any_form_are_told_apart(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = make_encoder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    revisions = [open_encoder(EMBEDDING_MODEL=str(folder)).info.revision]
    (folder / "model.safetensors").unlink()
    for factor in (1.0, 2.0):
        torch.save(
            {name: factor * one for name, one in weights.items()}, folder / "pytorch_model.bin"
        )
        revisions.append(open_encoder(EMBEDDING_MODEL=str(folder)).info.revision)
    assert len({*revisions}) == 3
    assert not any(str(folder) in revision for revision in revisions)


def test_model_whose_configuration_cannot_be_read_is_named(tmp_path: Path) -> None:
    from relais_embedding_worker.encoder_sentence_transformers import check_model

    for model in ({}, {"EMBEDDING_MODEL": str(make_encoder(tmp_path))}):
        check_model(settings_of(**model))
    (tmp_path / "empty").mkdir()
    for name in ("empty", "none"):
        with pytest.raises(SettingsError, match=rf"EMBEDDING_MODEL .*{name}.*config\.json"):
            check_model(settings_of(EMBEDDING_MODEL=str(tmp_path / name)))


def test_backend_that_is_not_installed_is_named(
    backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=rf"EMBEDDING_BACKEND is {backend}.*{backend}\.txt"):
        open_encoder(EMBEDDING_BACKEND=backend)
    # What is not installed is no candidate.
    model = str(make_encoder(tmp_path))
    assert open_encoder(EMBEDDING_MODEL=model, EMBEDDING_BACKEND="auto", EMBEDDING_DTYPE="float32")


@pytest.mark.parametrize("pools_prompt", [True, False])
def test_prompts_are_the_model_s_own(tmp_path: Path, pools_prompt: bool) -> None:
    folder = make_encoder(tmp_path, pools_prompt=pools_prompt)
    encoder, reference = open_encoder(EMBEDDING_MODEL=str(folder)), library(folder)

    for input_type, name in ((InputType.QUERY, "query"), (InputType.PASSAGE, "passage")):
        rows = vectors(encoder, [*TEXTS], input_type)
        np.testing.assert_allclose(rows, reference.encode(TEXTS, prompt_name=name), atol=1e-5)
    bare = vectors(encoder, [*TEXTS])
    np.testing.assert_allclose(bare, reference.encode(TEXTS), atol=1e-5)
    assert np.abs(bare - vectors(encoder, [*TEXTS], InputType.QUERY)).max() > 1e-3
    # Of one batch, whatever each came with.
    mixed = [
        *encoder.tokenize(["cats sleep"], InputType.QUERY, WHOLE),
        *encoder.tokenize(["cats sleep"], None, WHOLE),
    ]
    np.testing.assert_allclose(
        encoder.encode(mixed),
        [reference.encode("cats sleep", prompt_name="query"), reference.encode("cats sleep")],
        atol=1e-5,
    )


def test_model_says_to_what_its_vectors_may_be_cut(tmp_path: Path) -> None:
    listed = make_encoder(tmp_path / "listed", matryoshka_dimensions=[16, 8])
    any_ = make_encoder(tmp_path / "any", is_matryoshka=True)
    plain = make_encoder(tmp_path / "plain")

    assert [
        list(open_encoder(EMBEDDING_MODEL=str(folder)).info.shorter)
        for folder in (listed, any_, plain)
    ] == [[8, 16], list(range(1, DIMENSIONS)), []]


def test_what_is_cut_off_is_told(tmp_path: Path) -> None:
    encoder = open_encoder(EMBEDDING_MODEL=str(make_encoder(tmp_path)))
    long = "a b c " * 40
    tokens = encoder.tokenize(["a", long, long * 100, tuple([8] * 50)], None, WHOLE)

    assert [one.truncated for one in tokens] == [False, True, True, True]
    assert [len(one.ids) for one in tokens] == [3, MAX_TOKENS, MAX_TOKENS, MAX_TOKENS]
    assert len({one.ids[-1] for one in tokens}) == 1, "the end of a text stays marked"


def test_batches_of_a_cpu_are_for_its_threads() -> None:
    import torch

    expected = 512 * min(torch.get_num_threads(), 8)
    assert open_encoder().info.batch_tokens == expected


def test_model_without_text_is_refused(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW

    SentenceTransformer(modules=[BoW(["a", "b"])], device="cpu").save(str(tmp_path / "model"))

    with pytest.raises(SettingsError, match="EMBEDDING_MODEL"):
        open_encoder(EMBEDDING_MODEL=str(tmp_path / "model"))


ODD = [
    *"e\u0301 ç ﬁ ǅ İ ß 中 文 ｶﾞ 가 한 🦄 ﷺ \u00ad \u200b \u202e \x00 \u0301\u0327".split(" "),
    *". ! -- [MASK] [UNK] ##s don't".split(" "),
]


def odd_texts(rng: random.Random) -> Iterator[str]:
    """Texts in which a cut may fall anywhere: within words of any length, marks, signs, spaces of all kinds."""
    yield from ("x" * 5000, "x" * 50_000 + " end", "\u0301" * 9000, "e" + "\u0301\u0327" * 4000)
    yield from ("中" * 9000, "!" * 9000, " " * 9000 + "end", "\x00" * 9000 + "end", "[MASK]" * 2000)
    yield from (f"{'a' * length} " * (12_000 // length) for length in (1, 7, 99, 100, 101, 4000))
    for _ in range(120):
        some = rng.choices([*WORDS, *ODD, "a" * rng.randint(1, 300), "antidisestablish"], k=12)
        gaps = rng.choices([" ", "", "  ", "\n", "\t", "\u3000", "\u00a0", "\u0301 "], k=5)
        yield "".join(
            rng.choice(some) + rng.choice(gaps) for _ in range(rng.choice((3, 300, 3000)))
        )


@pytest.mark.parametrize("prompt", ["", "query: "])
def test_tokens_are_the_same_however_little_of_a_text_is_looked_at(prompt: str) -> None:
    encoder = open_encoder()
    encoder._default_prompt = prompt
    rng = random.Random(7)
    limit = encoder.info.max_tokens
    cut = 0
    for text in odd_texts(rng):
        (whole,) = encoder.tokenize([text], None, WHOLE)
        for reach in {8 * limit, 32 * limit, rng.randint(1, 9 * limit), len(text) - 1}:
            (tokens,) = encoder.tokenize([text], None, reach)
            assert tokens in (None, whole), (text[:80], reach)
            cut += tokens is not None and len(prompt + text) > reach
    assert cut > 100, "most of them need not be read to the end"
    assert encoder.tokenize([" ".join(WORDS * 1000)], None, 8 * limit) != [None]


def test_token_that_the_model_does_not_have_is_refused_wherever_it_is() -> None:
    encoder = open_encoder()
    with pytest.raises(EngineRefused, match="99999999"):
        encoder.tokenize([(7,) * 100_000 + (99_999_999,)], None, 100)
    (tokens,) = encoder.tokenize([(7,) * 100_000], None, 100)
    assert tokens.truncated
    assert len(tokens.ids) == encoder.info.max_tokens


def pairs_of(encoder: Any, texts: list[tuple[str, str]], reach: int = WHOLE) -> list[Tokens]:
    pairs = []
    for query, document in texts:
        (first,) = encoder.tokenize([query], InputType.QUERY, reach)
        (second,) = encoder.tokenize([document], InputType.PASSAGE, reach)
        pairs.append(encoder.pair(first, second))
    return pairs


@pytest.mark.parametrize(
    "activation", ["torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"]
)
def test_scores_are_the_library_s_own_whatever_the_batches(tmp_path: Path, activation: str) -> None:
    from sentence_transformers import CrossEncoder

    folder = make_reranker(tmp_path, sentence_transformers={"activation_fn": activation})
    encoder = open_encoder(EMBEDDING_MODEL=str(folder))
    assert isinstance(encoder, Reranker)
    rng = random.Random(11)
    texts = [
        (" ".join(rng.choices(WORDS, k=rng.choice((0, 1, 4, 9)))), document)
        for document in [*TEXTS, *(" ".join(rng.choices(WORDS, k=n % 40)) for n in range(80))]
    ]
    texts += [("a b c " * 40, "cats sleep"), ("a b c " * 40, "the town hall " * 40)]
    expected = CrossEncoder(str(folder), device="cpu").predict(texts)

    pairs = pairs_of(encoder, texts)
    order = rng.sample(range(len(texts)), len(texts))
    scores = np.empty(len(texts), np.float32)
    for start in range(0, len(order), 13):
        at = order[start : start + 13]
        scores[at] = encoder.encode([pairs[index] for index in at])[:, 0]
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert np.ptp(scores) > 0.5
    assert 20 < sum(pair.truncated for pair in pairs) < len(pairs)
    assert pairs_of(encoder, texts[-2:], reach=200) == pairs[-2:]


def expected_probabilities(folder: Path, texts: list[Any], **options: Any) -> Any:
    """What transformers' own classes make of each text alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    kind = getattr(model.config, "problem_type", None)
    squash = torch.sigmoid if kind == "multi_label_classification" else torch.nn.Softmax(-1)
    options = {"max_length": MAX_TOKENS, **options}
    with torch.inference_mode():
        rows = [
            squash(model(**tokenizer(one, truncation=True, return_tensors="pt", **options)).logits)
            for one in texts
        ]
    return torch.cat(rows).numpy()


@pytest.mark.parametrize(
    ("backend", "problem", "options"),
    [
        ("torch", None, {}),
        ("torch", "single_label_classification", {"max_length": 5}),
        ("torch", "multi_label_classification", {"add_special_tokens": False}),
        ("onnx", None, {}),
        ("openvino", "multi_label_classification", {"add_special_tokens": False}),
        ("auto", None, {}),
    ],
)
def test_probabilities_are_the_library_s_own_whatever_the_batches(
    tmp_path: Path, cache: Path, backend: str, problem: str | None, options: dict[str, Any]
) -> None:
    names = {0: "praise", 1: "complaint", 2: "question"}
    folder = make_reranker(tmp_path, labels=3, id2label=names, problem_type=problem)
    encoder: Any = open_encoder(
        EMBEDDING_MODEL=str(folder),
        EMBEDDING_BACKEND=backend,
        EMBEDDING_DTYPE="float32",
        MODELS_CACHE_DIR=str(cache),
    )
    assert isinstance(encoder, Classifier)
    assert encoder.info.labels == tuple(names.values())
    rng = random.Random(11)
    texts = [*TEXTS[1:], *(" ".join(rng.choices(WORDS, k=1 + n % 40)) for n in range(60))]
    expected = expected_probabilities(folder, texts, **options)

    tokens = [
        encoder.complete(
            one,
            options.get("max_length", MAX_TOKENS),
            special_tokens=options.get("add_special_tokens", True),
        )
        for one in whole(encoder, texts)
    ]
    order = rng.sample(range(len(texts)), len(texts))
    rows = np.empty_like(expected)
    for start in range(0, len(order), 13):
        at = order[start : start + 13]
        rows[at] = encoder.encode([tokens[index] for index in at])
    np.testing.assert_allclose(rows, expected, atol=1e-4)
    assert np.ptp(rows) > 0.5
    assert 10 < sum(one.truncated for one in tokens) < len(tokens)


def test_kinds_are_told_apart_by_their_labels(tmp_path: Path) -> None:
    for labels, kind in ((1, Reranker), (2, Classifier)):
        folder = make_reranker(tmp_path / str(labels), labels=labels)
        assert isinstance(open_encoder(EMBEDDING_MODEL=str(folder)), kind)


def test_pairs_that_would_be_written_otherwise_than_the_library_does_are_refused(
    tmp_path: Path,
) -> None:
    from transformers import AutoTokenizer

    folder = make_reranker(tmp_path)
    AutoTokenizer.from_pretrained(folder, truncation_side="left").save_pretrained(folder)
    with pytest.raises(SettingsError, match="EMBEDDING_MODEL"):
        open_encoder(EMBEDDING_MODEL=str(folder))
