"""Marks fields of OpenAI's that are not supported: refused by name, except at values without effect."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import NoneType
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_WORD = re.compile(r"[a-z][a-z0-9_.]{0,63}")
PARAMETER = "unsupported_parameter"
VALUE = "unsupported_value"


def word(value: object) -> str | None:
    """Return a value in quotes if it can be a word of an API, which errors may repeat; they repeat no texts."""
    return repr(value) if isinstance(value, str) and _WORD.fullmatch(value) else None


@dataclass(frozen=True, slots=True)
class NotSupported:
    """Marks a field, as in `tools: Annotated[None, NotSupported("tool calls are not supported")] = None`.

    Attributes:
        why: the error message, and the field's description.
        names_value: whether the message repeats the value, if that is a word.
    """

    why: str
    names_value: bool = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        code = PARAMETER if source in (None, NoneType) else VALUE

        def check(value: Any, accept: core_schema.ValidatorFunctionWrapHandler) -> Any:
            try:
                accepted = accept(value)
            except ValidationError:
                raise self._fault(code, value) from None
            if isinstance(value, bool) != isinstance(accepted, bool):  # True == 1
                raise self._fault(code, value)
            return accepted

        return core_schema.no_info_wrap_validator_function(check, handler(source))

    def _fault(self, code: str, value: Any) -> PydanticCustomError:
        named = word(value) if self.names_value else None
        why = self.why if named is None else f"{self.why} (not {named})"
        return PydanticCustomError(code, "{why}", {"why": why})

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        sentence = self.why[:1].upper() + self.why[1:]
        return {**handler(schema), "description": f"{sentence}: refused at any other value."}
