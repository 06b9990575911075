"""Integers as in JSON: `5.0` is the integer 5; `"5"` and `true` are not integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

EXACT = 2**53
"""The largest integer up to which floats represent every integer exactly."""


@dataclass(frozen=True, slots=True)
class Whole:
    """Marks an integer with inclusive bounds, as in `Annotated[int, Whole(0, 100)]`.

    A strict `int` refuses `5.0`. This one accepts it without running Python code, so that long lists of such numbers
    are cheap.
    """

    least: int
    most: int

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        written_as_float = core_schema.chain_schema(
            [
                core_schema.float_schema(strict=True, ge=-EXACT, le=EXACT),
                core_schema.int_schema(strict=False),
            ]
        )
        whole = core_schema.union_schema(
            [core_schema.int_schema(strict=True), written_as_float],
            mode="left_to_right",
            custom_error_type="int_type",  # one error, not one for each branch
        )
        bounded = core_schema.int_schema(strict=True, ge=self.least, le=self.most)
        return core_schema.chain_schema([whole, bounded])

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}
