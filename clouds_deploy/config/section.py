"""What every section of a recipe is, and the numbers it is made of."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A part of a recipe: frozen, and closed to keys it does not know.

    Attributes:
        example: Of a whole recipe's class: a shipped recipe that shows all its keys.
    """

    example: ClassVar[str] = "tiny"
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
