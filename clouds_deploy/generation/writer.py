"""The interface of language models that fill in forms."""

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
            if unknown.
    """

    text: str
    doubt: float | None = None


@dataclass(frozen=True)
class Sampling:
    """Settings of the sampling.

    Attributes:
        temperature: Above 0; lower gives more likely text.
        top_p: 0..1: sample among the likeliest tokens that together have this probability.
    """

    temperature: float = 0.6
    top_p: float = 0.8


class Writer(Protocol):
    """A language model that fills in forms."""

    def describe(self) -> dict[str, Any]:
        """Description of the model: `model`, `sha256` of its file if there is one, ..."""
        ...

    def write(self, lesson: str, forms: Sequence[Form], seeds: Sequence[int]) -> list[Draft]:
        """Fills in forms.

        Args:
            lesson: Text before each form's request; the same for all.
            forms: The forms.
            seeds: One for each form; the same seed and form give the same draft.
        """
        ...
