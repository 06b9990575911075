"""The engine port over vLLM's AsyncLLM."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from jinja2 import TemplateError
from vllm.exceptions import VLLMClientError
from vllm.inputs import TokensPrompt, tokens_input
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingParams
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import RequestOutputCollector

from relais_common.jobs.chat import Chat, images_of
from relais_common.jobs.errors import EngineDead, EngineRefused, NotResumable
from relais_common.jobs.job import Sampling
from relais_llm_worker.answer_text import AnswerText
from relais_llm_worker.continuation import obstacle
from relais_llm_worker.engine import (
    NOTHING,
    Emitted,
    EncodedChat,
    EngineLoad,
    Generation,
    ModelInfo,
)
from relais_llm_worker.engines.parsing import Parsing
from relais_llm_worker.engines.prompts import Prompts
from relais_llm_worker.engines.token_texts import TokenTexts, id_as_text
from relais_llm_worker.engines.vllm.chats import VllmChats, VllmParser
from relais_llm_worker.engines.vllm.images import VllmImages
from relais_llm_worker.engines.vllm.metrics import LoadGauge
from relais_llm_worker.engines.vllm.outputs import Logprobs, PromptLogprobs, VllmGeneration
from relais_llm_worker.engines.vllm.requests import (
    SETTLED,
    field_named_in,
    first_line,
    sampling_params,
)
from relais_llm_worker.parsed_answer import ParsedAnswer
from relais_llm_worker.settings import StructuredOutputsSettings
from relais_llm_worker.structured_outputs.of_vllm import specification_of
from relais_llm_worker.structured_outputs.trials import Trials

# Arguments of transformers' `apply_chat_template`, and names that it gives the template itself.
_NO_VARIABLES = frozenset(
    (
        *("conversation", "conversations", "messages", "tools", "documents", "chat_template"),
        *("add_generation_prompt", "continue_final_message", "tokenize", "tokenizer_kwargs"),
        *("padding", "truncation", "max_length", "return_tensors", "return_dict"),
        "return_assistant_tokens_mask",
    )
)
_LONGEST_CONTEXT = 4  # tokens that may share a character


class VllmEngine:
    """One AsyncLLM, and the properties of its model, or of an adapter of it."""

    def __init__(
        self,
        llm: AsyncLLM,
        gauge: LoadGauge,
        info: ModelInfo,
        prompts: Prompts,
        chats: VllmChats,
        parsing: Parsing,
        images: VllmImages,
        structured_outputs: StructuredOutputsSettings,
        trials: Trials | None,
        adapter: LoRARequest | None = None,
    ) -> None:
        self._llm = llm
        self._gauge = gauge
        self._prompts = prompts
        self._chats = chats
        self._parsing = parsing
        self._images = images
        self._trials = trials
        self._structured_outputs = structured_outputs
        self._tokenizer: Any = llm.get_tokenizer()
        self._single_texts: dict[int, str] = {}  # at most the vocabulary
        self._defaults = llm.model_config.get_diff_sampling_param()
        self._info = info
        self._adapter = adapter

    @property
    def info(self) -> ModelInfo:
        return self._info

    def load(self) -> EngineLoad:
        return self._gauge.load

    async def encode_chat(
        self, key_id: str, chat: Chat, *, add_special_tokens: bool = False, keep: int | None = None
    ) -> EncodedChat:
        template_kwargs = chat.template_kwargs
        # Arguments of the method itself are not template variables.
        if taken := sorted(_NO_VARIABLES.intersection(template_kwargs)):
            raise EngineRefused(
                f"chat_template_kwargs.{taken[0]}: this cannot be set",
                param=f"chat_template_kwargs.{taken[0]}",
                code="unsupported_parameter",
            )
        variables = self._chats.template_variables(chat)
        has_images = any(images_of(chat.messages))
        try:
            if has_images:
                return await self._images.encode(
                    key_id, chat.messages, variables, add_special_tokens=add_special_tokens
                )
            return EncodedChat(
                await self._prompts.of_chat(
                    key_id,
                    chat.messages,
                    variables,
                    self._chats.conversation,
                    add_special_tokens=add_special_tokens,
                    keep=keep,
                )
            )
        # A model may have written arguments that nest as deeply as it liked.
        except (
            TemplateError,
            VLLMClientError,
            ValueError,
            TypeError,
            RecursionError,
        ) as error:
            what = "images or messages" if has_images else "messages"
            raise EngineRefused(
                f"the model's chat template refused the {what}: {first_line(error)}",
                param="chat_template_kwargs" if template_kwargs else "messages",
            ) from error

    async def encode_text(
        self, key_id: str, text: str, *, add_special_tokens: bool = True, keep: int | None = None
    ) -> list[int]:
        return await self._prompts.of_text(
            key_id, text, add_special_tokens=add_special_tokens, keep=keep
        )

    async def decode(self, key_id: str, token_ids: Sequence[int]) -> str:
        if max(token_ids, default=0) >= self._llm.model_config.get_vocab_size():
            raise EngineRefused("a token id is out of the vocabulary", param="tokens")
        return await self._prompts.text_of(key_id, token_ids)

    async def token_texts(self, key_id: str, token_ids: Sequence[int]) -> list[str]:
        return await self._prompts.texts_of(key_id, token_ids)

    @property
    def _ends_at_prompt_logprobs(self) -> bool:
        """Whether they would end the engine: vLLM's CPU build takes answers' adapters for those of prompts."""
        return current_platform.is_cpu() and self._llm.vllm_config.lora_config is not None

    def settled(self, sampling: Sampling, chat: Chat | None = None) -> Sampling:
        missing = {
            name: value
            for name, value in self._defaults.items()
            if name in SETTLED and getattr(sampling, name) is None
        }
        settled = replace(sampling, **missing) if missing else sampling
        return settled if chat is None else self._chats.adjusted(settled, chat)

    async def check_structure(
        self, sampling: Sampling, *, key_id: str, param: str | None = None
    ) -> None:
        specification = specification_of(sampling, self._structured_outputs, param)
        if specification is None:
            return
        if sampling.bad_words:
            # They may allow no token at some unknown step, and the engine would fail in the middle of the answer.
            raise EngineRefused(
                "bad_words: cannot be combined with structured outputs",
                param="bad_words",
                code="unsupported_parameter",
            )
        if self._trials is None:
            raise EngineRefused(
                f"{specification.param}: this model does not support structured outputs",
                param=specification.param,
                code="unsupported_parameter",
            )
        await self._trials.check(specification, key_id=key_id)

    @asynccontextmanager
    async def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        sampling: Sampling,
        max_tokens: int,
        emitted: Emitted = NOTHING,
        chat: Chat | None = None,
        prompt_logprobs: int | None = None,
        media: object | None = None,
        *,
        tokens_at_once: int = 1,
    ) -> AsyncIterator[Generation]:
        if prompt_logprobs is not None and self._ends_at_prompt_logprobs:
            raise EngineRefused(
                "prompt_logprobs: not supported on a CPU beside LoRA adapters",
                param="prompt_logprobs",
                code="unsupported_parameter",
            )
        sampling = self.settled(sampling)
        text = AnswerText(
            self._decoder(request_id, prompt_token_ids, sampling.skip_special_tokens),
            sampling.stop,
            sampling.min_tokens or 0,
            keep_stop=sampling.include_stop_str_in_output,
        )
        parser = self._chats.parser_of(chat, prompt_token_ids)
        parsed = ParsedAnswer(parser, chat.options) if chat and parser else None
        if emitted != NOTHING:
            steps = text.replaying(emitted) if parsed is None else parsed.replaying(text, emitted)
            if not await self._parsing.restored(request_id, steps):
                raise NotResumable("its tokens give another text here")
        # A prompt does not bring these into the state in which they were; made again, the tokens do.
        is_forced = obstacle(sampling) is not None
        prefilled, forced = ((), emitted.token_ids) if is_forced else (emitted.token_ids, ())
        collector = await self._add(
            request_id,
            prompt_token_ids,
            sampling,
            max_tokens,
            prefilled,
            forced,
            prompt_logprobs,
            media,
            tokens_at_once,
            parser,
        )
        told_prompt = None
        if prompt_logprobs is not None:
            told_prompt = PromptLogprobs(prompt_token_ids, self._token_text, prompt_logprobs)
        logprobs = self._logprobs(sampling, emitted)
        parsing = None if parsed is None else self._parsing.of(request_id, parsed)
        run = VllmGeneration(collector, text, sampling, logprobs, parsing, forced, told_prompt)
        try:
            yield run
        finally:
            if not run.finished and not self._llm.errored:
                await self._llm.abort(collector.request_id, internal=True)

    def _logprobs(self, sampling: Sampling, emitted: Emitted) -> Logprobs | None:
        count = sampling.logprobs
        if count is None:
            return None
        as_ids = sampling.return_tokens_as_token_ids
        texts = TokenTexts(id_as_text if as_ids else self._token_text)
        texts.advance(emitted.token_ids[-_LONGEST_CONTEXT:])
        return Logprobs(texts, count)

    def _token_text(self, token_ids: Sequence[int]) -> str:
        if len(token_ids) > 1:
            return str(self._tokenizer.decode(list(token_ids)))
        (token_id,) = token_ids
        if token_id not in self._single_texts:
            (text,) = convert_ids_list_to_tokens(self._tokenizer, [token_id])
            self._single_texts[token_id] = text
        return self._single_texts[token_id]

    def _decoder(
        self, request_id: str, prompt_token_ids: list[int], skip_special_tokens: bool
    ) -> Callable[[int], str]:
        """Wrap vLLM's incremental detokeniser, so that a resumed stream can continue within a character."""
        request: Any = SimpleNamespace(
            request_id=request_id,
            prompt_token_ids=prompt_token_ids,
            prompt_embeds=None,
            sampling_params=SamplingParams(skip_special_tokens=skip_special_tokens),
        )
        detokenizer: Any = IncrementalDetokenizer.from_new_request(self._tokenizer, request)

        def decode(token_id: int) -> str:
            # As its `update` does, which looks for stop strings too.
            detokenizer.token_ids.append(token_id)
            text: str = detokenizer.decode_next(token_id)
            return text

        return decode

    async def _add(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        sampling: Sampling,
        max_tokens: int,
        prefilled: tuple[int, ...],
        forced: tuple[int, ...],
        prompt_logprobs: int | None,
        media: Any,
        tokens_at_once: int,
        parser: VllmParser | None,
    ) -> RequestOutputCollector:
        token_ids = [*prompt_token_ids, *prefilled]
        try:
            params = sampling_params(
                sampling, max_tokens, len(prefilled), forced, prompt_logprobs, tokens_at_once
            )
            # vLLM processes a raw prompt in a thread, which is worthwhile only if it also checks a specification.
            prompt: Any = tokens_input(token_ids)
            if media is not None:
                # Images come before the answer, so their places stay.
                prompt = {**media, "prompt_token_ids": token_ids}
            elif params.structured_outputs is not None:
                prompt = TokensPrompt(prompt_token_ids=token_ids)
            return await self._llm.add_request(
                request_id,
                prompt,
                params,
                lora_request=self._adapter,
                **({} if parser is None else parser.engine_arguments(sampling)),
            )
        except EngineDeadError as error:
            raise EngineDead("vLLM's engine is dead") from error
        except (VLLMClientError, ValueError, TypeError) as error:
            message = first_line(error)
            param = getattr(error, "parameter", None) or field_named_in(message, sampling)
            raise EngineRefused(message, param=param) from error

    def kill(self) -> None:
        # Their child processes die with them.
        for process in getattr(self._llm.engine_core.resources.engine_manager, "processes", ()):
            process.kill()

    async def check_health(self) -> None:
        try:
            await self._llm.check_health()
        except EngineDeadError as error:
            raise EngineDead("vLLM's engine is dead") from error
