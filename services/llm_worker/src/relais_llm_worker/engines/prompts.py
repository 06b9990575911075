"""Tokenises prompts. Refuses those that cannot fit as early as possible; keys take turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from msgspec import to_builtins

from relais_common.jobs.chat import Message
from relais_common.worker.turns import Turns
from relais_llm_worker.engine import exceeds_context

SHORT_TEXT = 2_000
"""Number of characters that a tokenizer processes in well under a millisecond."""

SLICE = 16_384
"""Characters tokenised in one turn, about 10 ms."""

CUT_TOKENS = 64
"""The most tokens that a cut may add to a count, by splitting a long token in two."""


class Tokenizer(Protocol):
    """The port of a tokenizer. Threads may call it concurrently: it keeps no state between calls."""

    @property
    def max_chars_per_token(self) -> int:
        """Return the length of the longest token."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text."""

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of token ids."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """Return each token by itself."""

    def apply_chat_template(
        self, messages: list[dict[str, Any]], *, tokenize: bool, **kwargs: Any
    ) -> Any:
        """Return the prompt of a chat."""


def plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages as plain objects, each with a content, which templates rely on."""
    return [{"content": "", **to_builtins(turn)} for turn in messages]


class Prompts:
    """A model's tokenizer, shared by all keys.

    A prompt that fits is tokenised whole. If it has more characters than the context has tokens, it is first counted
    slice by slice until it is known to be too long. The context therefore bounds the work, not the prompt.

    Args:
        max_model_len: tokens of prompt and answer together.
        chat_template: in place of the tokenizer's own.
    """

    def __init__(
        self, tokenizer: Tokenizer, max_model_len: int, *, chat_template: str | None = None
    ) -> None:
        self._chat_template = {} if chat_template is None else {"chat_template": chat_template}
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._slices = Turns("tokenize")
        self._long = Turns("tokenize-long")

    async def of_text(
        self,
        key_id: str,
        text: str,
        *,
        add_special_tokens: bool = True,
        keep: int | None = None,
        param: str = "prompt",
    ) -> list[int]:
        """Tokenise a text.

        Args:
            add_special_tokens: put the model's before it.
            keep: how many tokens are left of it, the last ones; None for all.
            param: the field to blame.

        Raises:
            EngineRefused: it does not fit.
        """
        if keep is not None:
            # What so many tokens cannot reach need not be read.
            text = text[-(keep * self._tokenizer.max_chars_per_token + SLICE) :]

        def encode() -> list[int]:
            ids = list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))
            if keep is None or len(ids) <= keep or not add_special_tokens:
                return ids
            # Cut here, since a tokenizer that truncates keeps a state between calls.
            return _cut(ids, list(self._tokenizer.encode(text, add_special_tokens=False)), keep)

        # Each thread switch waits for the GIL, 5 ms while this thread is busy: longer than a short text takes.
        if len(text) <= SHORT_TEXT:
            return encode()
        if len(text) <= SLICE:
            return await self._slices.run(key_id, encode)
        if keep is None:
            await self._require_fit(key_id, text, param)
        return await self._long.run(key_id, encode)

    async def text_of(self, key_id: str, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""
        return await self._slices.run(key_id, lambda: self._tokenizer.decode(list(token_ids)))

    async def texts_of(self, key_id: str, token_ids: Sequence[int]) -> list[str]:
        """Return each token as the tokenizer writes it."""
        ids = list(token_ids)
        return await self._slices.run(key_id, lambda: self._tokenizer.convert_ids_to_tokens(ids))

    async def of_chat(
        self,
        key_id: str,
        messages: Sequence[Message],
        variables: Mapping[str, Any],
        conversation: Callable[[Sequence[Message]], list[dict[str, Any]]] = plain,
        *,
        add_special_tokens: bool = False,
        keep: int | None = None,
    ) -> list[int]:
        """Apply the chat template and tokenise the result.

        Args:
            variables: also arguments of `apply_chat_template` in place of the usual.
            conversation: returns messages as the template takes them.
            add_special_tokens: put the model's before what the template writes.
            keep: how many tokens are left, at least; None for all.

        Raises:
            EngineRefused: it does not fit.
            Exception: whatever the template raises.
        """

        def apply(*, tokenize: bool) -> Any:
            return self._tokenizer.apply_chat_template(
                conversation(messages),
                tokenize=tokenize,
                return_dict=False,
                **self._chat_template,
                **{"add_generation_prompt": True, **variables},
            )

        if add_special_tokens:
            text = await self._slices.run(key_id, lambda: apply(tokenize=False))
            return await self.of_text(key_id, text, keep=keep, param="messages")

        def begin() -> str | list[int]:
            text: str = apply(tokenize=False)
            return text if len(text) > SLICE else list(apply(tokenize=True))

        # Many messages take long even if short, and what a template makes of variables is unknown.
        if not variables and sum(map(_length, messages)) <= SHORT_TEXT:
            return list(apply(tokenize=True))
        begun = await self._slices.run(key_id, begin)
        if isinstance(begun, list):
            return begun
        if keep is not None:
            return await self.of_text(key_id, begun, add_special_tokens=False, keep=keep)
        await self._require_fit(key_id, begun, "messages")
        return await self._long.run(key_id, lambda: list(apply(tokenize=True)))

    async def _require_fit(self, key_id: str, text: str, param: str) -> None:
        limit = self._max_model_len
        if len(text) > limit * self._tokenizer.max_chars_per_token:
            raise exceeds_context(
                limit, param, f"{len(text)} characters, more than {limit} tokens can hold"
            )
        if len(text) <= limit:
            return
        tokens = 0
        for piece in pieces(text):
            tokens += await self._slices.run(key_id, partial(self._count, piece)) - CUT_TOKENS
            if tokens >= limit:
                raise exceeds_context(limit, param, f"more than {tokens} tokens")

    def _count(self, piece: str) -> int:
        return len(self._tokenizer.encode(piece, add_special_tokens=False))

    def close(self) -> None:
        """Wait for the threads."""
        self._slices.close()
        self._long.close()


def _cut(ids: list[int], text_ids: list[int], keep: int) -> list[int]:
    """Return so many of these ids: as in vLLM, the special ones stay, and the text loses its beginning."""
    special = len(ids) - len(text_ids)
    places = (at for at in range(special + 1) if ids[at : at + len(text_ids)] == text_ids)
    before = next(places, None)
    if before is None:
        return ids[-keep:]
    kept = text_ids[len(text_ids) - max(0, keep - special) :]
    return [*ids[:before], *kept, *ids[before + len(text_ids) :]]


def _length(message: Message) -> int:
    """Return about how many characters a template makes of a message, whatever it writes of it."""
    calls = sum(
        len(one.id) + len(one.function.name) + len(one.function.arguments) + 50
        for one in message.tool_calls
    )
    texts = (message.text, message.reasoning, message.name, message.tool_call_id)
    return sum(len(text) for text in texts if text) + calls + 50


def pieces(text: str) -> Iterator[str]:
    """Yield the text in slices, cut before white space if possible, because few tokens span it."""
    begin = 0
    while begin < len(text):
        end = begin + SLICE
        if end < len(text):
            middle = begin + SLICE // 2
            end = max(text.rfind(" ", middle, end), text.rfind("\n", middle, end))
            end = end if end > begin else begin + SLICE
        yield text[begin:end]
        begin = end
