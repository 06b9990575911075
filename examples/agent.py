"""An agent: the model calls two tools of ours, as often as it wants, and then answers. One file, needs openai: copy it.

From a shell: `.venv/bin/python examples/agent.py --url http://localhost:8080/v1 "When is the library in Leeds open?"`.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel, ValidationError


class OpeningHours(BaseModel):
    """Opening hours of a public service in a town."""

    service: str
    town: str

    def run(self) -> str:
        return "9:00 to 17:00" if self.service in ("library", "town hall") else "not found"


class RequestStatus(BaseModel):
    """State of a request by its file number."""

    file_number: str

    def run(self) -> str:
        return "accepted" if self.file_number.endswith("7") else "in progress"


TOOLS: dict[str, type[OpeningHours | RequestStatus]] = {
    "opening_hours": OpeningHours,
    "request_status": RequestStatus,
}


def called(name: str, arguments: str) -> str:
    """Run a tool. What is wrong with the call is told to the model, which may try again."""
    try:
        result = TOOLS[name].model_validate_json(arguments).run()
    except (KeyError, ValidationError) as error:
        result = f"error: {error}"
    print(f"{name}({arguments}): {result}", file=sys.stderr)
    return result


def answer(client: OpenAI, model: str, question: str, *, max_turns: int = 5) -> str:
    """Let the model call tools until it answers."""
    messages: list[Any] = [{"role": "user", "content": question}]
    tools = [pydantic_function_tool(tool, name=name) for name, tool in TOOLS.items()]
    for _ in range(max_turns):
        done = client.chat.completions.create(model=model, messages=messages, tools=tools)
        message = done.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            return message.content or ""
        for call in message.tool_calls:
            if call.type == "function":
                result = called(call.function.name, call.function.arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    raise RuntimeError(f"no answer after {max_turns} turns")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Answer a question with the help of tools.")
    parser.add_argument("question")
    parser.add_argument("--url", default="http://localhost:8080/v1")
    parser.add_argument("--model", default="relais-demo")
    wanted = parser.parse_args()
    client = OpenAI(base_url=wanted.url, api_key=os.environ.get("RELAIS_API_KEY", "any"))
    print(answer(client, wanted.model, wanted.question))
