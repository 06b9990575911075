"""Chat messages: text only, in the roles a chat template knows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from relais_common.jobs import Message
from relais_orchestrator.schemas.sampling import STRICT

MAX_MESSAGES = 2048
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=160)]


class TextPart(BaseModel):
    model_config = STRICT

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    model_config = STRICT

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]

    def to_message(self) -> Message:
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        # `developer` is OpenAI's newer word for the role that chat templates call `system`.
        return Message("system" if self.role == "developer" else self.role, content)


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
