"""Names of what chats begin with."""

from __future__ import annotations

from relais_common.jobs.beginnings import LEAST_BYTES, MOST_LAST, beginnings_of
from relais_common.jobs.chat import ChatOptions, Message

RULES = Message("system", "You answer questions about trains. " * 20)


def turns(count: int) -> list[Message]:
    return [Message("user" if n % 2 == 0 else "assistant", f"turn {n}") for n in range(count)]


def names(*messages: Message, **options: object) -> tuple[str, ...]:
    return beginnings_of(messages, ChatOptions(**options), None)  # type: ignore[arg-type]


def test_a_short_conversation_has_no_name() -> None:
    assert names(Message("user", "a" * (LEAST_BYTES // 2))) == ()


def test_conversations_with_the_same_rules_share_a_name() -> None:
    first, second = names(RULES, Message("user", "a")), names(RULES, Message("user", "b"))
    assert first[-1] == second[-1]
    assert first[0] != second[0]


def test_the_next_turn_has_the_name_of_the_whole_one_before() -> None:
    before = turns(31)
    for more in range(1, MOST_LAST):
        whole = names(RULES, *before)[0]
        assert whole in names(RULES, *before, *turns(more))


def test_names_are_the_longest_first_and_few() -> None:
    all_turns = turns(40)
    found = names(RULES, *all_turns)
    assert len(found) == MOST_LAST + 1
    assert found[1:-1] == names(RULES, *all_turns[:-1])[: MOST_LAST - 1]


def test_other_tools_or_templates_begin_otherwise() -> None:
    tool = {"type": "function", "function": {"name": "depart"}}
    plain = names(RULES)
    assert plain != names(RULES, tools=(tool,))
    assert plain != beginnings_of([RULES], ChatOptions(), {"enable_thinking": True})


def test_other_options_of_the_answer_begin_alike() -> None:
    assert names(RULES) == names(RULES, include_reasoning=False, parallel_tool_calls=False)
