"""Chats with images, as vLLM's own server makes prompts of them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from PIL import Image
from vllm.exceptions import VLLMValidationError
from vllm.renderers.params import ChatParams, TokenizeParams

from relais_common.jobs.chat import Message, images_of
from relais_common.jobs.errors import EngineRefused
from relais_common.worker.turns import Turns
from relais_llm_worker.engine import EncodedChat, exceeds_context
from relais_llm_worker.engines.prompts import plain

MAX_PIXELS = 64_000_000
"""Of all images of a request. A small file may have far more, and decoding takes 3 bytes for each, or 4."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


class VllmImages:
    """Decodes images, and makes prompts with them, in a thread of its own; keys take turns.

    Args:
        renderer: vLLM's.
        chat_template: in place of the model's own.
    """

    def __init__(self, renderer: Any, max_model_len: int, chat_template: str | None) -> None:
        self._renderer = renderer
        self._max_model_len = max_model_len
        self._chat_template = chat_template
        self._turns = Turns("images")

    @property
    def is_supported(self) -> bool:
        """Whether the model takes images."""
        if not self._renderer.model_config.supports_multimodal_inputs:
            return False
        limits: Mapping[str, int] = self._renderer.get_mm_processor().info.allowed_mm_limits
        return limits.get("image", 0) > 0

    async def encode(
        self,
        key_id: str,
        messages: Sequence[Message],
        variables: Mapping[str, Any],
        *,
        add_special_tokens: bool,
    ) -> EncodedChat:
        """Return the prompt, and vLLM's input of which it is a part.

        Raises:
            EngineRefused: an image cannot be read, they are too many or too large, or the prompt is too long.
            Exception: whatever the template raises.
        """
        chat = ChatParams(
            chat_template=self._chat_template,
            chat_template_kwargs={
                "add_generation_prompt": True,
                "continue_final_message": False,
                **variables,
                "tokenize": False,
            },
        )
        tokens = TokenizeParams(self._max_model_len, add_special_tokens=add_special_tokens)

        def render() -> Any:
            _check(messages)
            # With its cache of what the engine has, an image that is prepared and then not sent (its request was
            # refused, or cancelled) would be missing there the next time.
            _, (prompt,) = self._renderer.render_chat(
                [plain(messages)], chat, tokens, skip_mm_cache=True
            )
            return prompt

        try:
            prompt = await self._turns.run(key_id, render)
        except VLLMValidationError as error:
            if error.parameter in ("input_text", "input_tokens"):
                limit = self._max_model_len
                raise exceeds_context(limit, "messages", f"more than {limit} tokens") from None
            raise
        return EncodedChat(list(prompt["prompt_token_ids"]), prompt)

    def close(self) -> None:
        """Wait for the thread."""
        self._turns.close()


def _check(messages: Sequence[Message]) -> None:
    """Raise EngineRefused if the images cannot be read, or have too many pixels: before anything is decoded."""
    pixels = 0
    for path, part in images_of(messages):
        try:
            data = base64.b64decode(part.image_url.url.partition(",")[2])
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
        except Exception:  # noqa: BLE001 — broken files raise whatever their reader stumbles over
            raise EngineRefused(f"{path}: this image cannot be read", param=path) from None
        pixels += width * height
        if pixels > MAX_PIXELS:
            raise EngineRefused(
                f"{path}: the images of a request may have {MAX_PIXELS:,} pixels together",
                param=path,
            )
