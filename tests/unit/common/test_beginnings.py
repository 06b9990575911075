"""Names of what chats begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relais_common.jobs.beginnings import LEAST_CHARACTERS, MOST_LAST, MOST_MESSAGES, beginnings_of
from relais_common.jobs.chat import ImagePart, ImageUrl, Message, TextPart

RULES = Message("system", "You answer questions about trains. " * 20)


def turns(count: int) -> list[Message]:
    return [Message("user" if n % 2 == 0 else "assistant", f"turn {n}") for n in range(count)]


def names(*messages: Message, tools: Sequence[dict[str, Any]] = ()) -> tuple[str, ...]:
    return beginnings_of(messages, tools)


def test_a_short_conversation_has_no_name() -> None:
    assert names(Message("user", "a" * (LEAST_CHARACTERS // 2))) == ()


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


def test_other_tools_begin_otherwise() -> None:
    tool = {"type": "function", "function": {"name": "depart"}}
    assert names(RULES) != names(RULES, tools=[tool])


def test_other_images_begin_otherwise() -> None:
    first, second = (
        Message(
            "user",
            (TextPart("Que vois-tu ?" * 30), ImagePart(ImageUrl("data:," + "A" * 9000 + end))),
        )
        for end in "BC"
    )
    assert names(first) != names(second)


def test_a_text_of_megabytes_is_not_read_whole() -> None:
    class Text(str):
        __slots__ = ()

        def encode(self, *_: object, **__: object) -> bytes:
            raise AssertionError

    assert names(Message("user", Text("a" * 5_000_000)))


def test_of_very_many_messages_the_first_alone_has_a_name() -> None:
    assert names(RULES, *turns(MOST_MESSAGES)) == names(RULES)
