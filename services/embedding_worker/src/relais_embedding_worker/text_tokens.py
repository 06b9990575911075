"""Turns texts into token ids with a Hugging Face tokenizer, reading only as much of a text as the model does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from relais_common.jobs.errors import EngineRefused
from relais_embedding_worker.encoder import Input, Tokens

UNSURE_WORDS = 3
"""Words before a cut whose tokens may differ in the whole text, because they are cut or depend on what follows."""


class TextTokenizer:
    """Tokenises as `tokenizer` does.

    Args:
        max_tokens: tokens of one input; longer inputs are truncated.
        special_tokens: whether to add those that the tokenizer puts around every text.
    """

    def __init__(self, tokenizer: Any, *, max_tokens: int, special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._special_tokens = special_tokens
        self._lead, self._tail = self._special_ids() if special_tokens else ([], [])

    def tokens(
        self, inputs: Sequence[Input], reach: int, *, prompt: str = "", prompt_length: int = 0
    ) -> list[Tokens | None]:
        """Return the tokens of each input, as `Encoder.tokenize` does.

        Args:
            prompt: goes before every text.
            prompt_length: that of every text's tokens.
        """
        texts = [prompt + one for one in inputs if isinstance(one, str)]
        of_texts = iter(self._of_texts(texts, prompt_length, reach))
        return [
            next(of_texts)
            if isinstance(one, str)
            else self._cut([*self._lead, *self._known(one), *self._tail], 0)
            for one in inputs
        ]

    def length_before(self, prompt: str) -> int:
        """Return the number of tokens before whatever follows a prompt."""
        return len(self._ids([prompt])[0]) - len(self._tail)

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
            if len(ids) + len(self._tail) > self._max_tokens:
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

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._encoded(texts)["input_ids"]
        return ids

    def _encoded(self, texts: Sequence[str]) -> Any:
        return self._tokenizer(
            list(texts),
            add_special_tokens=self._special_tokens,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )

    def _cut(self, ids: Sequence[int], prompt_length: int) -> Tokens:
        """Truncate as the tokenizer does: drop the end, keep special tokens."""
        if len(ids) <= self._max_tokens:
            return Tokens(tuple(ids), prompt_length)
        kept = ids[: self._max_tokens - len(self._tail)]
        return Tokens((*kept, *self._tail), prompt_length, truncated=True)

    def _known(self, ids: Sequence[int]) -> Sequence[int]:
        size = len(self._tokenizer)
        for token_id in (min(ids, default=0), max(ids, default=0)):
            if not 0 <= token_id < size:
                raise EngineRefused(f"token id {token_id} is not in the vocabulary", param="input")
        return ids[: self._max_tokens + 1]

    def _special_ids(self) -> tuple[list[int], list[int]]:
        """Return the tokens that the tokenizer puts before and after every text."""
        encoded = self._tokenizer("a", return_special_tokens_mask=True)
        mask, ids = encoded["special_tokens_mask"], encoded["input_ids"]
        first = mask.index(0)
        last = len(mask) - mask[::-1].index(0)
        return ids[:first], ids[last:]
