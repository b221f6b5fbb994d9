"""Base class of recipe sections and of verbs' options objects, and the numbers they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from clouds_deploy.artifacts.names import fault
from clouds_deploy.errors import CloudsError, nearest

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


def _plain(name: str) -> str:
    wrong = "has a slash in it" if "/" in name else fault(name)
    if wrong:
        raise ValueError(f"a name of a folder is wanted; it {wrong}")
    return name


Name = Annotated[str, AfterValidator(_plain)]
"""A recipe's name: its run's folder is called so, where no other is named."""


class Section(BaseModel):
    """A part of a recipe: frozen, and closed to keys it does not know.

    Attributes:
        example: Of a whole recipe's class: a shipped recipe that shows all its keys.
    """

    example: ClassVar[str] = "tiny"
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One tree of keys on top of another: sections are merged, values replaced."""
    both = dict(below)
    for key, value in above.items():
        under = both.get(key)
        both[key] = merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return both


S = TypeVar("S", bound=Section)


def make_options(kind: type[S], given: Mapping[str, Any]) -> S:
    """Checks a verb's keyword arguments and gathers them in its options object.

    Args:
        kind: The verb's options.
        given: Values by name; what is left out keeps its default.

    Raises:
        CloudsError: A name is unknown (the nearest is suggested), missing, or its value is of the wrong type
            or out of range.
    """
    for name in given:
        if name not in kind.model_fields:
            raise CloudsError(f"there is no option `{name}`", nearest(name, kind.model_fields))
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise CloudsError(f"the option `{name}` is missing", f"give `{name}=...`") from error
        what = first["msg"].removeprefix("Value error, ")
        raise CloudsError(f"the option `{name}` cannot be `{first['input']}`", what) from error
