"""vLLM's parsers of tool calls and reasoning, over the demo model's tokenizer, without an engine."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from relais_common.jobs.chat import Chat, ChatOptions, FunctionCall, Message, ToolCall, joined
from relais_common.jobs.errors import EngineRefused, SettingsError
from relais_common.jobs.job import Sampling
from relais_llm_worker.answer_text import AnswerText
from relais_llm_worker.engine import NOTHING, Chunk, Emitted
from relais_llm_worker.engines.parsing import Parsing
from relais_llm_worker.parsed_answer import ParsedAnswer, merged
from relais_llm_worker.settings import ChatSettings
from relais_testing.chunks import emitted, parts
from relais_testing.process_stack import DEMO_MODEL

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

ARGUMENTS = {"city": "Nîmes", "days": [1, {"a": "}"}], "note": "été"}
CALL = f"<tool_call>\n{json.dumps({'name': 'weather', 'arguments': ARGUMENTS})}\n</tool_call>"
OTHER = '\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
LIST = json.dumps([{"name": "weather", "parameters": ARGUMENTS}])
TOOLS = tuple(
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("weather", "clock")
)
NAMED = {"type": "function", "function": {"name": "weather"}}
MODEL_CONFIG = SimpleNamespace(
    model="relais-demo",
    hf_config=SimpleNamespace(model_type="llama"),
    hf_text_config=None,
    hf_overrides=None,
    multimodal_config=None,
    enable_prompt_embeds=False,
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DEMO_MODEL)


@pytest.fixture
def make_chats(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    # As a worker has it whose structured outputs are guidance's.
    monkeypatch.setenv("VLLM_ENFORCE_STRICT_TOOL_CALLING", "0")
    from relais_llm_worker.engines.vllm.chats import VllmChats

    return lambda **settings: VllmChats(tokenizer, MODEL_CONFIG, ChatSettings(**settings))


def chat(choice: Any = "auto", **fields: Any) -> Chat:
    options = ChatOptions(tools=TOOLS, tool_choice=choice, **fields)
    return Chat((Message("user", "hello"),), {}, options)


PLAIN = Chat((Message("user", "hello"),))


class Run:
    """An answer as an engine brings it, step by step."""

    def __init__(
        self, chats: Any, tokenizer: Any, asked: Chat, text: str, per_step: int = 2
    ) -> None:
        self._per_step = per_step
        self._chats, self._tokenizer, self.asked = chats, tokenizer, asked
        self.ids = tokenizer.encode(text, add_special_tokens=False)

    def open(self) -> tuple[ParsedAnswer, AnswerText]:
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        inner = self._tokenizer.backend_tokenizer
        parsed = ParsedAnswer(self._chats.parser_of(self.asked, [1, 2, 3]), self.asked.options)
        return parsed, AnswerText(lambda token_id: stream.step(inner, token_id) or "", ())

    def chunks(self, begun: Emitted = NOTHING) -> list[Chunk]:
        parsed, text = self.open()
        assert parsed.replay(text, begun)
        chunks = []
        for at in range(len(begun.token_ids), len(self.ids), self._per_step):
            step = []
            for one, token_id in enumerate(self.ids[at : at + self._per_step], at + 1):
                text.feed(token_id)
                is_last = one == len(self.ids)
                piece = text.give(ended=is_last)
                step.append(Chunk((token_id,), piece, "stop" if is_last else None))
            chunks += merged(map(parsed.tell_apart, step))
        return chunks


@pytest.mark.parametrize(
    ("choice", "text", "names"),
    [
        ("auto", f"I look.{CALL}{OTHER}", ["weather", "clock"]),
        ("required", LIST, ["weather"]),
        (NAMED, json.dumps(ARGUMENTS), ["weather"]),
    ],
    ids=["auto", "required", "named"],
)
def test_calls_that_are_cut_anywhere_go_on_to_the_letter(
    make_chats: Any, tokenizer: Any, choice: Any, text: str, names: list[str]
) -> None:
    run = Run(make_chats(tool_call_parser="hermes"), tokenizer, chat(choice), text)
    whole = run.chunks()
    assert [name for name, _ in parts(whole)[2]] == names
    assert json.loads(parts(whole)[2][0][1]) == ARGUMENTS
    assert whole[-1].finish_reason == ("stop" if choice is NAMED else "tool_calls")
    message = whole[-1].message
    assert message is not None
    ids = [one.id for one in joined(delta for chunk in whole for delta in chunk.tool_calls)]
    assert [one.id for one in message.tool_calls] == ids
    assert not whole[-1].unreadable
    for count in range(1, len(whole)):
        begun = whole[:count]
        rest = run.chunks(emitted(begun))
        assert parts([*begun, *rest]) == parts(whole), count
        told = joined(delta for chunk in [*begun, *rest] for delta in chunk.tool_calls)
        assert rest[-1].message is not None
        assert [one.id for one in rest[-1].message.tool_calls] == [one.id for one in told]


@pytest.mark.parametrize("per_step", [1, 2, 5])
def test_reasoning_that_is_cut_anywhere_goes_on_to_the_letter(
    make_chats: Any, tokenizer: Any, per_step: int
) -> None:
    chats = make_chats(tool_call_parser="hermes", reasoning_parser="deepseek_r1")
    run = Run(chats, tokenizer, chat(), f"<think>Où est-ce ?</think>I look.{CALL}", per_step)
    whole = run.chunks()
    content, reasoning, calls = parts(whole)
    assert (content.strip(), reasoning) == ("I look.", "Où est-ce ?")
    assert [name for name, _ in calls] == ["weather"]
    thought = tokenizer.encode("Où est-ce ?", add_special_tokens=False)
    assert whole[-1].reasoning_tokens == len(thought)
    for count in range(1, len(whole)):
        begun = whole[:count]
        rest = run.chunks(emitted(begun))
        assert parts([*begun, *rest]) == parts(whole), count
        assert rest[-1].reasoning_tokens == len(thought)


def test_calls_of_the_conversation_are_counted_and_not_checked_again(
    make_chats: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    checked: list[Any] = []
    validate = ChatCompletionRequest.model_validate

    def watched(fields: dict[str, Any]) -> ChatCompletionRequest:
        checked.extend(fields["messages"])
        return validate(fields)

    monkeypatch.setattr(ChatCompletionRequest, "model_validate", watched)
    # Its calls have numbers.
    monkeypatch.setattr(MODEL_CONFIG.hf_config, "model_type", "kimi_k2")
    call = ToolCall("c", FunctionCall("weather", "{}"))
    turns = (Message("user", "go"), Message("assistant", tool_calls=(call, call)))
    asked = Chat((*turns, *turns), {}, ChatOptions(tools=TOOLS, tool_choice="required"))
    last = Run(make_chats(tool_call_parser="hermes"), tokenizer, asked, LIST).chunks()[-1]
    assert last.message is not None
    assert [one.id for one in last.message.tool_calls] == ["functions.weather:4"]
    assert checked == []


def test_what_is_no_call_is_text_in_the_whole_and_counted(make_chats: Any, tokenizer: Any) -> None:
    text = '<tool_call>{"name": "weather", "argum'
    run = Run(make_chats(tool_call_parser="hermes"), tokenizer, chat(), text)
    last = run.chunks()[-1]
    assert last.message == Message("assistant", text)
    assert last.unreadable


def test_a_call_that_is_demanded_is_a_structured_output(make_chats: Any) -> None:
    chats = make_chats(tool_call_parser="hermes")
    required = chats.adjusted(Sampling(), chat("required"))
    assert required.structured_outputs["json"]["type"] == "array"
    named = chats.adjusted(Sampling(response_format={"type": "json_object"}), chat(NAMED))
    assert named.structured_outputs == {"json": {"type": "object"}}
    assert named.response_format is None
    assert chats.adjusted(Sampling(), chat("auto")).structured_outputs is None


def test_messages_are_as_templates_take_them(make_chats: Any) -> None:
    call = ToolCall("c", FunctionCall("weather", '{"city": "Lyon"}'))
    turns = make_chats(tool_call_parser="hermes").conversation(
        [
            Message("user", "go", "Ada"),
            Message("assistant", reasoning="hm", tool_calls=(call,)),
            Message("tool", "rain", tool_call_id="c"),
        ]
    )
    assert turns[0] == {"role": "user", "content": "go", "name": "Ada"}
    assert turns[1]["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": {"city": "Lyon"},
    }
    assert turns[1]["reasoning"] == turns[1]["reasoning_content"] == "hm"
    assert turns[2] == {"role": "tool", "content": "rain", "tool_call_id": "c"}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, {}),
        ({"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False}),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high", "enable_thinking": True}),
    ],
)
def test_the_template_is_told_of_tools_and_effort(
    make_chats: Any, fields: dict[str, Any], told: dict[str, Any]
) -> None:
    variables = make_chats(tool_call_parser="hermes").template_variables(chat(**fields))
    assert [one["function"]["name"] for one in variables.pop("tools")] == ["weather", "clock"]
    assert variables == told


def test_tools_need_a_parser_unless_they_may_not_be_called(make_chats: Any) -> None:
    chats = make_chats()
    with pytest.raises(EngineRefused) as refused:
        chats.template_variables(chat())
    assert (refused.value.param, refused.value.status) == ("tools", 400)
    assert "tools" in chats.template_variables(chat("none"))
    assert chats.parser_of(chat("none"), [1]) is None


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"tool_call_parser": "nobody-s"}, "VLLM_TOOL_CALL_PARSER"),
        ({"reasoning_parser": "nobody-s"}, "VLLM_REASONING_PARSER"),
        ({"template": "/no/such/file.jinja"}, "VLLM_CHAT_TEMPLATE"),
    ],
)
def test_wrong_settings_are_named_before_a_model_is_loaded(
    settings: dict[str, str], name: str
) -> None:
    from relais_llm_worker.engines.vllm.chats import check_chat_settings

    with pytest.raises(SettingsError, match=name):
        check_chat_settings(ChatSettings(**settings))


def test_a_parser_that_the_tokenizer_does_not_fit_is_refused(make_chats: Any) -> None:
    with pytest.raises(SettingsError, match="VLLM_REASONING_PARSER"):
        make_chats(reasoning_parser="olmo3")


@pytest.mark.parametrize("per_step", [1, 5])
def test_reasoning_that_is_not_wanted_is_counted_and_left_out(
    make_chats: Any, tokenizer: Any, per_step: int
) -> None:
    chats = make_chats(tool_call_parser="hermes", reasoning_parser="deepseek_r1")
    asked = chat(include_reasoning=False)
    run = Run(chats, tokenizer, asked, f"<think>hm, hm</think>I look.{CALL}", per_step)
    chunks = run.chunks()
    content, reasoning, calls = parts(chunks)
    assert (content.strip(), reasoning, len(calls)) == ("I look.", "", 1)
    assert chunks[-1].message is not None
    assert chunks[-1].message.reasoning is None
    assert chunks[-1].reasoning_tokens
    # Cut anywhere, it goes on.
    for cut in range(1, len(chunks)):
        assert parts([*chunks[:cut], *run.chunks(emitted(chunks[:cut]))])[0] == content


def test_structures_begin_after_the_reasoning_unless_they_have_it_in_them(
    make_chats: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chats = make_chats(tool_call_parser="hermes", reasoning_parser="deepseek_r1")

    def ended(asked: Chat) -> object:
        settled = chats.adjusted(Sampling(), asked)
        return chats.parser_of(asked, [1, 2, 3]).engine_arguments(settled)["reasoning_ended"]

    assert ended(chat()) is not True
    assert ended(chat(include_reasoning=False)) is True

    def with_a_grammar_of_its_own(_: Any, request: Any) -> Any:
        request._grammar_from_parser = True
        return request

    # As Mistral's parser does it with Mistral's own tokenizer, of which there is none here.
    monkeypatch.setattr(chats._parser, "adjust_request", with_a_grammar_of_its_own)
    assert ended(chat()) is True


async def test_tokens_that_come_together_are_parsed_one_by_one(
    make_chats: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all of vLLM's parsers can take several, and what others say depends on it."""
    from relais_llm_worker.engines.vllm.engine import VllmEngine

    chats, parsing = (
        make_chats(tool_call_parser="hermes", reasoning_parser="deepseek_r1"),
        Parsing(),
    )
    run = Run(chats, tokenizer, chat(), f"<think>hm, hm</think>I look.{CALL}{OTHER}", per_step=1)
    portions: list[int] = []
    parse_delta = chats._parser.parse_delta

    def counted(self: Any, *, delta_token_ids: list[int], **rest: Any) -> Any:
        portions.append(len(delta_token_ids))
        return parse_delta(self, delta_token_ids=delta_token_ids, **rest)

    monkeypatch.setattr(chats._parser, "parse_delta", counted)
    steps = [run.ids[at : at + 16] for at in range(0, len(run.ids), 16)]
    intervals: list[int] = []

    class Collector:
        async def get(self) -> object:
            token_ids = steps.pop(0)
            reason = None if steps else "stop"
            completion = SimpleNamespace(
                token_ids=token_ids, finish_reason=reason, stop_reason=None, logprobs=None
            )
            return SimpleNamespace(
                outputs=[completion], finished=not steps, num_cached_tokens=0, prompt_logprobs=None
            )

    async def add_request(_id: str, _prompt: Any, params: Any, **_: Any) -> object:
        intervals.append(params.stream_interval)
        return Collector()

    llm: Any = SimpleNamespace(
        get_tokenizer=lambda: tokenizer,
        model_config=SimpleNamespace(get_diff_sampling_param=dict),
        add_request=add_request,
    )
    other: Any = None
    engine = VllmEngine(llm, other, other, other, chats, parsing, other, other, trials=None)
    sampling = Sampling(skip_special_tokens=False, include_stop_str_in_output=True)
    async with engine.generate(
        "a", [1, 2, 3], sampling, 999, chat=run.asked, tokens_at_once=16
    ) as generation:
        chunks = [chunk async for chunk in generation.chunks()]
    assert intervals == [16]
    assert portions == [1] * len(run.ids)
    assert len(chunks) < len(run.ids) / 8, "pieces that say the same share a chunk"
    told, alone = emitted(chunks), run.chunks()
    assert told.token_ids == tuple(run.ids)
    assert parts(chunks) == parts(alone)
    assert len(told.tool_calls) == 2
    assert chunks[-1].message is not None
    for cut in range(1, len(chunks)):
        assert parts([*chunks[:cut], *run.chunks(emitted(chunks[:cut]))]) == parts(alone), cut
