"""What every `Encoder` does, every `Reranker` and every `Classifier`."""

from __future__ import annotations

import numpy as np
import pytest

from relais_common.jobs.errors import EngineRefused
from relais_common.jobs.job import InputType
from relais_embedding_worker.encoder import Classifier, Encoder, Input, Reranker, Tokens, Vectors
from relais_testing.encoders import whole

TEXTS: list[Input] = ["", "the town hall opens at nine", "cats", "a b c " * 40, "cats sleep"]
WHOLE = 1 << 30


class EncoderContract:
    """Subclass it as `Test...`, with a fixture `encoder`."""

    def test_it_says_what_it_is(self, encoder: Encoder) -> None:
        info = encoder.info
        assert info.revision
        assert info.dimensions >= 1
        assert info.max_tokens >= 2
        assert info.batch_tokens >= 1

    @pytest.mark.parametrize("input_type", [None, *InputType])
    def test_each_input_becomes_no_more_tokens_than_the_model_reads(
        self, encoder: Encoder, input_type: InputType | None
    ) -> None:
        limit = encoder.info.max_tokens
        tokens = whole(encoder, [*TEXTS, "a " * (2 * limit)], input_type)
        assert len(tokens) == len(TEXTS) + 1
        assert all(1 <= len(one.ids) <= limit for one in tokens)
        assert all(0 <= one.prompt_length <= len(one.ids) for one in tokens)
        assert (tokens[2].truncated, tokens[-1].truncated) == (False, True)
        assert tokens[-1].ids[: limit - 1] == tokens[-1].ids[:-1]

    def test_tokens_are_the_same_whatever_the_reach(self, encoder: Encoder) -> None:
        texts: list[Input] = [*TEXTS, "town hall " * (8 * encoder.info.max_tokens)]
        whole_tokens = encoder.tokenize(texts, None, WHOLE)
        assert None not in whole_tokens
        answered = 0
        for reach in (1, 7, 60, 4 * encoder.info.max_tokens, 60 * encoder.info.max_tokens):
            for found, expected in zip(
                encoder.tokenize(texts, None, reach), whole_tokens, strict=True
            ):
                assert found in (None, expected)
                answered += found is not None
        assert answered > len(texts)

    def test_token_that_the_model_lacks_is_refused(self, encoder: Encoder) -> None:
        for bad in ((10_000_000,), (-1,)):
            with pytest.raises(EngineRefused):
                encoder.tokenize(["fine", bad], None, WHOLE)

    def test_token_ids_are_inputs(self, encoder: Encoder) -> None:
        (tokens,) = whole(encoder, [(1, 2, 3)])
        assert set(tokens.ids) >= {1, 2, 3}

    def test_vectors_are_finite_rows_in_the_order_of_the_batch(self, encoder: Encoder) -> None:
        tokens = whole(encoder, TEXTS)
        rows = encoder.encode(tokens)
        assert rows.shape == (len(TEXTS), encoder.info.dimensions)
        assert rows.dtype == np.float32
        assert np.isfinite(rows).all()
        np.testing.assert_allclose(encoder.encode(tokens[::-1])[::-1], rows, atol=1e-5)
        if encoder.info.normalized:
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)

    def test_vector_does_not_depend_on_its_company(self, encoder: Encoder) -> None:
        tokens = whole(encoder, TEXTS)
        together = encoder.encode(tokens)
        alone = np.concatenate([encoder.encode([one]) for one in tokens])
        np.testing.assert_allclose(together, alone, atol=1e-5)
        assert np.abs(together[1] - together[2]).max() > 1e-3


class RerankerContract:
    """Subclass it as `Test...`, with a fixture `encoder`, a `Reranker`."""

    QUERIES: tuple[Input, ...] = ("the town hall", "", "cats sleep", "a b c " * 40)

    def pairs(self, encoder: Reranker) -> list[Tokens]:
        return [
            encoder.pair(query, document)
            for query in whole(encoder, self.QUERIES, InputType.QUERY)
            for document in whole(encoder, TEXTS, InputType.PASSAGE)
        ]

    def test_it_says_what_it_is(self, encoder: Reranker) -> None:
        assert isinstance(encoder, Reranker)
        assert encoder.info.revision
        assert (encoder.info.dimensions, encoder.info.normalized) == (1, False)

    def test_pair_has_both_texts_and_no_more_than_the_model_reads(self, encoder: Reranker) -> None:
        query, short, long = whole(encoder, ["cats sleep", "the town hall", "a b c " * 400])
        assert set(encoder.pair(query, short).ids) >= {*query.ids, *short.ids}
        for first, second, truncated in (
            (query, short, False),
            (query, long, True),
            (long, short, True),
            (long, long, True),
        ):
            pair = encoder.pair(first, second)
            assert len(pair.ids) <= encoder.info.max_tokens
            assert (pair.truncated, bool(pair.second_at)) == (truncated, True)

    def test_pair_is_the_same_whatever_the_reach(self, encoder: Reranker) -> None:
        (query,) = whole(encoder, ["cats sleep"], InputType.QUERY)
        texts: list[Input] = [*TEXTS, "town hall " * (8 * encoder.info.max_tokens)]
        for reach in (7, 60, 8 * encoder.info.max_tokens):
            for found, expected in zip(
                encoder.tokenize(texts, InputType.PASSAGE, reach),
                whole(encoder, texts, InputType.PASSAGE),
                strict=True,
            ):
                assert found is None or encoder.pair(query, found) == encoder.pair(query, expected)

    def test_scores_are_finite_rows_of_one_whatever_their_company(self, encoder: Reranker) -> None:
        pairs = self.pairs(encoder)
        scores: Vectors = encoder.encode(pairs)
        assert scores.shape == (len(pairs), 1)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()
        np.testing.assert_allclose(encoder.encode(pairs[::-1])[::-1], scores, atol=1e-5)
        alone = np.concatenate([encoder.encode([one]) for one in pairs])
        np.testing.assert_allclose(scores, alone, atol=1e-5)
        assert np.ptp(scores) > 1e-3


class ClassifierContract:
    """Subclass it as `Test...`, with a fixture `encoder`, a `Classifier`."""

    def complete(
        self, encoder: Classifier, *texts: Input, most: int = WHOLE, special_tokens: bool = True
    ) -> list[Tokens]:
        limit = min(most, encoder.info.max_tokens)
        return [
            encoder.complete(one, limit, special_tokens=special_tokens)
            for one in whole(encoder, texts)
        ]

    def test_it_says_what_it_is(self, encoder: Classifier) -> None:
        assert isinstance(encoder, Classifier)
        assert not isinstance(encoder, Reranker)
        assert encoder.info.dimensions == len(encoder.info.labels) > 1

    def test_text_is_cut_to_what_is_asked_for(self, encoder: Classifier) -> None:
        for most in (4, WHOLE):
            short, long = self.complete(encoder, "cats", "a b c " * 40, most=most)
            assert (short.truncated, long.truncated) == (False, True)
            assert len(long.ids) == min(most, encoder.info.max_tokens)

    def test_special_tokens_can_be_left_out(self, encoder: Classifier) -> None:
        (bare,) = self.complete(encoder, "the town hall", special_tokens=False)
        (usual,) = self.complete(encoder, "the town hall")
        assert {*bare.ids} < {*usual.ids}
        (cut,) = self.complete(encoder, "the town hall", most=1, special_tokens=False)
        assert (cut.ids, cut.truncated) == (bare.ids[:1], True)

    def test_what_leaves_nothing_to_read_is_refused(self, encoder: Classifier) -> None:
        for most, special_tokens in ((0, False), (0, True), (1, True)):
            with pytest.raises(EngineRefused) as refused:
                self.complete(encoder, "cats", most=most, special_tokens=special_tokens)
            assert refused.value.param == "truncate_prompt_tokens"
        with pytest.raises(EngineRefused) as refused:
            self.complete(encoder, "", special_tokens=False)
        assert refused.value.param == "input"

    def test_probabilities_are_those_of_the_text_whatever_its_company(
        self, encoder: Classifier
    ) -> None:
        tokens = self.complete(encoder, *TEXTS, (5, 6, 7))
        tokens += self.complete(encoder, "cats sleep", (5, 6, 7), special_tokens=False)
        rows: Vectors = encoder.encode(tokens)
        assert rows.shape == (len(tokens), encoder.info.dimensions)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows.sum(axis=1), 1.0, atol=1e-5)
        alone = np.concatenate([encoder.encode([one]) for one in tokens])
        np.testing.assert_allclose(rows, alone, atol=1e-5)
        assert np.ptp(rows) > 1e-3
