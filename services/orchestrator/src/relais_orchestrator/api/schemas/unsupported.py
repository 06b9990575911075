"""Marks fields of OpenAI's that are not supported: refused by name, except at values without effect."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

PARAMETER = "unsupported_parameter"
VALUE = "unsupported_value"


@dataclass(frozen=True, slots=True)
class NotSupported:
    """Marks a field, as in `tools: Annotated[None, NotSupported("tool calls are not supported")] = None`.

    Attributes:
        why: the error message, and the field's description.
    """

    why: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        code = PARAMETER if source in (None, NoneType) else VALUE

        def check(value: Any, accept: core_schema.ValidatorFunctionWrapHandler) -> Any:
            try:
                accepted = accept(value)
            except ValidationError:
                raise PydanticCustomError(code, "{why}", {"why": self.why}) from None
            if isinstance(value, bool) != isinstance(accepted, bool):  # True == 1
                raise PydanticCustomError(code, "{why}", {"why": self.why})
            return accepted

        return core_schema.no_info_wrap_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        sentence = self.why[:1].upper() + self.why[1:]
        return {**handler(schema), "description": f"{sentence}: refused at any other value."}
