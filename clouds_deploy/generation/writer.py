"""What fills forms in: a language model behind one narrow door, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from clouds_deploy.generation.form import Form


@dataclass(frozen=True)
class Draft:
    """A filled form, good or not.

    Attributes:
        text: The prompt as the model wrote it, from its first letter; ends with a full stop if it is whole.
        doubt: Mean negative log-likelihood of the freely written tokens, in nats, before temperature; None
            where the runtime doesn't tell.
    """

    text: str
    doubt: float | None = None


@dataclass(frozen=True)
class Sampling:
    """How words are drawn.

    Attributes:
        temperature: Above 0; lower is safer and duller.
        top_p: 0..1: draw among the likeliest tokens that together have this probability.
    """

    temperature: float = 0.6
    top_p: float = 0.8


class Writer(Protocol):
    """A language model that fills in forms."""

    def describe(self) -> dict[str, Any]:
        """Say which model it is: `model`, `runtime`, `sha256` of its file where there is one, ..."""
        ...

    def write(self, lesson: str, forms: Sequence[Form], seeds: Sequence[int]) -> list[Draft]:
        """Fills forms in.

        Args:
            lesson: What stands before each form's request; the same for all.
            forms: The forms.
            seeds: One for each form; the same seed and form give the same draft.
        """
        ...
