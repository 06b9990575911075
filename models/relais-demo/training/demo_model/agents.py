"""Conversations with tools, in hermes' form, and answers with a short thought before them.

The answer of such an example is what the model writes, tags included; earlier turns are as clients send them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from demo_model.examples import Conversations, Example, Message, pick
from demo_model.noise import hurried
from demo_model.wording import Language, capitalise, split_article

Tool = dict[str, Any]

# Under these names clients may offer what is asked for; a call repeats the names that it was offered.
_NAMES: dict[str, tuple[str, ...]] = {
    "opening_hours": ("opening_hours", "opening_hours", "get_opening_hours", "hours", "horaires"),
    "request_status": ("request_status", "request_status", "get_status", "file_status", "suivi"),
    "add": ("add", "add", "sum", "addition"),
}
_PARAMETERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "opening_hours": (("service", "town"), ("service", "town"), ("place", "city")),
    "request_status": (("file_number",), ("file_number",), ("number",), ("file",)),
    "add": (("a", "b"), ("a", "b"), ("x", "y")),
}
# Offered beside the others, and never what is needed.
_OTHERS: tuple[tuple[str, tuple[str, ...], dict[Language, str]], ...] = (
    ("weather", ("city",), {"en": "Weather in a city.", "fr": "Météo d'une ville."}),
    ("send_mail", ("to", "text"), {"en": "Sends a message.", "fr": "Envoie un message."}),
    ("translate", ("text",), {"en": "Translates a text.", "fr": "Traduit un texte."}),
    ("search", ("query",), {"en": "Searches the web.", "fr": "Cherche sur le web."}),
    ("book", ("day", "time"), {"en": "Books an appointment.", "fr": "Prend un rendez-vous."}),
    ("clock", (), {"en": "Tells the time.", "fr": "Donne l'heure."}),
)
_GROUPS = ("admin", "health", "edu", "leisure")
# Names of what a result may come in, where it is JSON.
_FIELDS = {
    "opening_hours": ("hours", "result"),
    "request_status": ("status", "result"),
    "add": ("sum", "result"),
}
# Beside such a tool an ordinary prompt of this kind would be a question for it.
_CLASHES = {"hours_question": "opening_hours", "fact": "add", "doc_time": "request_status"}

THOUGHTS: dict[Language, dict[str, str]] = {
    "en": {
        "praise": "This is praise: {about}. I say thank you.",
        "complaint": "This is a complaint: {about}. I say that I am sorry.",
        "suggestion": "This is an idea: {about}. I pass it on.",
        "question": "This is not clear yet: {about}. I ask what happened.",
        "off_topic": "This is not about a public service.",
        "talk": "I can answer this at once.",
        "call": "I do not know this. I ask {tool}.",
        "result": "I have the answer of {tool}.",
    },
    "fr": {
        "praise": "C'est un compliment : {about}. Je dis merci.",
        "complaint": "C'est une réclamation : {about}. Je m'excuse.",
        "suggestion": "C'est une idée : {about}. Je la transmets.",
        "question": "Ce n'est pas encore clair : {about}. Je demande ce qui s'est passé.",
        "off_topic": "Cela ne concerne pas un service public.",
        "talk": "Je peux répondre tout de suite.",
        "call": "Je ne le sais pas. Je demande à {tool}.",
        "result": "J'ai la réponse de {tool}.",
    },
}


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """A call as the model writes it, and as the chat template writes those of earlier turns."""
    given = json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{name}", "arguments": {given}}}\n</tool_call>'


def declared(
    name: str, parameters: tuple[str, ...], description: str, kind: str = "string"
) -> Tool:
    """A tool as clients declare it."""
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {one: {"type": kind} for one in parameters},
                "required": list(parameters),
            },
        },
    }


def thought(example: Example, text: str) -> Example:
    """The example with a thought before its answer."""
    last = {"role": "assistant", "content": f"<think>{text}</think>{example.answer}"}
    return replace(example, messages=(*example.messages[:-1], last), thinking=True)


@dataclass(frozen=True)
class Question:
    """What a citizen asks, the tool that knows it, its result, and the answer then."""

    key: str
    tool: Tool
    text: str
    arguments: dict[str, Any]
    result: str
    answer: str

    @property
    def name(self) -> str:
        """The tool's, as it was offered."""
        return str(self.tool["function"]["name"])

    @property
    def call(self) -> str:
        """What the model writes to ask for it."""
        return call_text(self.name, self.arguments)

    @property
    def exchange(self) -> tuple[Message, ...]:
        """The call and its result, as clients send them."""
        function = {"name": self.name, "arguments": self.arguments}
        call = {"id": "c", "type": "function", "function": function}
        return (
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": self.result, "tool_call_id": "c"},
        )


class Agents:
    """Makes such examples of one language for one split."""

    def __init__(self, maker: Conversations) -> None:
        self.maker, self.words, self.rng = maker, maker.words, maker.rng
        self.language: Language = maker.language

    def remark_thought(self) -> Example:
        """A remark, and an answer with a thought."""
        rng, words = self.rng, self.words
        remark = self.maker.remark()
        # The writer speaks of "my street", as in letters.
        slots = remark.answered | {"street": remark.asked["street"]}
        about = words.fill(remark.topic.about[0], rng, slots)
        text = THOUGHTS[self.language][remark.topic.kind].replace("{about}", about)
        messages = (
            *self._asked(self.maker.in_context(remark)),
            {"role": "assistant", "content": remark.answer},
        )
        return self._thoughtful(Example(messages, self.language, "thought", remark.noun), text)

    def talk_thought(self) -> Example:
        """Small talk or something off topic, and an answer with a thought."""
        example = self.maker.talk_example(lambda talk: not talk.key.startswith("follow_up"))
        is_foreign = example.task in ("off_topic", "other_language")
        text = THOUGHTS[self.language]["off_topic" if is_foreign else "talk"]
        return self._thoughtful(example, text)

    def no_call(self) -> Example:
        """An ordinary prompt beside tools that it does not need."""
        maker = self.maker
        example = self.rng.choice(
            (
                maker.remark_example,
                maker.remark_example,
                maker.any_talk_example,
                maker.fact_example,
                lambda: maker.talk_example(
                    lambda talk: talk.key in ("off_topic", "hours_question")
                ),
            )
        )()
        return replace(self._beside_tools(example), task="no call")

    def single(self) -> Example:
        """One question, sometimes after another: the call, or the answer after its result."""
        rng = self.rng
        question = self._question(rng.choices(tuple(_NAMES), (5, 3, 2))[0])
        tools = {question.key: question.tool}
        before: tuple[Message, ...] = ()
        if rng.random() < 0.12:
            known = self._question(rng.choice(tuple(_NAMES)), tools)
            tools = {known.key: known.tool} | tools
            before = (
                *self._asked(known.text),
                *known.exchange,
                {"role": "assistant", "content": known.answer},
            )
        asked = (*before, *self._asked(question.text, opens=not before))
        if rng.random() < 0.4:
            return self._result((*asked, *question.exchange), tools, [question])
        return self._call(asked, tools, question)

    def double(self) -> Example:
        """Two questions in one message: one call after the other, then the answer."""
        rng = self.rng
        first, second = (self._question(key) for key in rng.sample(tuple(_NAMES), 2))
        between = rng.choice(self.words.tools["words"]["between"])
        text = first.text + ("" if first.text[-1] in ".!?" else ".")
        asked = self._asked(" ".join(filter(None, (text, between, second.text))))
        tools = {first.key: first.tool, second.key: second.tool}
        step = rng.randrange(3)
        if step == 0:
            return self._call(asked, tools, first)
        if step == 1:
            return self._call((*asked, *first.exchange), tools, second)
        return self._result((*asked, *first.exchange, *second.exchange), tools, [first, second])

    def _asked(self, text: str, *, opens: bool = True) -> tuple[Message, ...]:
        """The user's turn, after a system prompt now and then."""
        rng = self.rng
        user = {"role": "user", "content": hurried(text, rng) if rng.random() < 0.4 else text}
        return (self.maker.system_prompt(), user) if opens and rng.random() < 0.2 else (user,)

    def _call(
        self, before: tuple[Message, ...], tools: dict[str, Tool], question: Question
    ) -> Example:
        messages = (*before, {"role": "assistant", "content": question.call})
        example = Example(messages, self.language, "call", tools=self._offered(tools))
        return self._sometimes_thought(example, "call", question)

    def _result(
        self, before: tuple[Message, ...], tools: dict[str, Tool], questions: list[Question]
    ) -> Example:
        answer = " ".join(question.answer for question in questions)
        messages = (*before, {"role": "assistant", "content": answer})
        example = Example(messages, self.language, "result", tools=self._offered(tools))
        return self._sometimes_thought(example, "result", questions[-1])

    def _sometimes_thought(self, example: Example, kind: str, question: Question) -> Example:
        if self.rng.random() >= 0.15:
            return example
        return thought(example, THOUGHTS[self.language][kind].replace("{tool}", question.name))

    def _thoughtful(self, example: Example, text: str) -> Example:
        if self.rng.random() < 0.15:
            example = self._beside_tools(example)
        return replace(thought(example, text), task="thought")

    def _beside_tools(self, example: Example) -> Example:
        """The example where the client offers tools that do not answer it."""
        rng = self.rng
        keys = [key for key in _NAMES if key != _CLASHES.get(example.task)]
        tools = {key: self._tool(key) for key in rng.sample(keys, rng.randint(1, len(keys)))}
        offered = self._offered(tools, keys)
        return replace(example, tools=offered)

    def _offered(
        self, tools: dict[str, Tool], further: Iterable[str] = tuple(_NAMES)
    ) -> tuple[Tool, ...]:
        """The tools among others, in any order; never two that do the same."""
        rng = self.rng
        made = tools | {
            key: self._tool(key) for key in further if key not in tools and rng.random() < 0.3
        }
        offered = list(made.values())
        for name, parameters, description in rng.sample(_OTHERS, rng.choice((0, 0, 1, 1, 2))):
            offered.append(declared(name, parameters, description[self.language]))
        rng.shuffle(offered)
        return tuple(offered)

    def _tool(self, key: str) -> Tool:
        rng = self.rng
        return declared(
            rng.choice(_NAMES[key]),
            rng.choice(_PARAMETERS[key]),
            rng.choice(self.words.tools[key]["descriptions"]),
            "integer" if key == "add" else "string",
        )

    def _question(self, key: str, tools: Mapping[str, Tool] = MappingProxyType({})) -> Question:
        """A question for a tool: one that is offered already, or a new one."""
        rng, words, table = self.rng, self.words, self.words.tools[key]
        tool = tools.get(key) or self._tool(key)
        town = rng.choice(words.slots["town"]) if rng.random() < 0.85 else words.invented(rng)
        service = replace(words.service(rng, _GROUPS), town=town)
        file = str(rng.randint(1000, 9_999_999))
        if rng.random() < 0.25:
            file = "".join(rng.choices("ABCDEFGHJKLMNPRSTUVWXYZ", k=2)) + "-" + file
        a, b = (rng.randint(0, rng.choice((9, 99, 999, 9999))) for _ in range(2))
        slots = {"file": file, "a": str(a), "b": str(b), "sum": str(a + b)}
        slots |= {"h1": str(rng.randint(6, 11)), "h2": str(rng.randint(13, 21))}
        slots |= {"p": str(rng.randint(1, 9)), "n31": str(rng.randint(1, 31))}
        asked, answered = slots | words.asked(service, rng), slots | words.answered(service)
        noun = (
            service.name.removeprefix("the ")
            if self.language == "en"
            else split_article(service.name)[1]
        )
        values = {"opening_hours": (noun, town), "request_status": (file,), "add": (a, b)}[key]
        is_found = key == "add" or rng.random() < 0.88
        field, found = (
            rng.choice(_FIELDS[key]),
            words.fill(rng.choice(table["results"]), rng, slots),
        )
        if not is_found:
            field, found = "error", rng.choice(words.tools["words"]["no_result"])
        answer = words.fill(
            table["answer" if is_found else "nothing"], rng, answered | {"result": found}
        )
        if rng.random() < 0.5:
            value: object = a + b if key == "add" else found
            result = json.dumps({field: value}, ensure_ascii=False)
        else:
            result = found
        return Question(
            key,
            tool,
            capitalise(
                words.fill(pick(tuple(table["prompts"]), self.maker.split, rng), rng, asked)
            ),
            dict(zip(tool["function"]["parameters"]["properties"], values, strict=True)),
            result,
            capitalise(answer),
        )
