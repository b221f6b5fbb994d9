"""The form of a prompt: which words are given, which the model chooses, which it writes freely.

A small model that writes a whole sentence forgets half of what it was asked for. In a form it cannot: the
factors' wordings are choices (the model picks one by its own likelihood), everything around them it writes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from clouds_deploy.generation.scenes import CAMERAS, PLACES, TIMES, WEATHERS, Scene
from clouds_deploy.generation.words import ELSEWHERE, LOOSE_WORDS, PLACE_WORDS

LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz-' ")
"""What may be written freely within a sentence that is laid out: no names, no numbers."""
SENTENCE = LETTERS | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ,")
"""What may be written freely in a whole sentence."""


@dataclass(frozen=True)
class Choice:
    """One of several wordings; one alone is simply given.

    Attributes:
        options: The wordings, each with the blank or the comma that precedes it.
    """

    options: tuple[str, ...]


@dataclass(frozen=True)
class Free:
    """Words that the model writes.

    Attributes:
        least: How few words there may be.
        most: How many.
        letters: The characters that belong to it; a full stop, a line break or a comma that doesn't ends it.
        banned: Words in lower case that may not be written.
    """

    least: int
    most: int
    letters: frozenset[str] = LETTERS
    banned: frozenset[str] = frozenset()


Slot = Choice | Free


@dataclass(frozen=True)
class Form:
    """A prompt to be filled in.

    Attributes:
        request: What the model is told to write about; ends where the prompt begins.
        slots: The prompt's parts in order; the full stop that ends it is not among them.
    """

    request: str
    slots: tuple[Slot, ...]

    def parse(self, text: str) -> tuple[str, ...] | None:
        """Give the free parts of a filled form, or None when it isn't one.

        Args:
            text: From the blank before the first word to the full stop.
        """
        pattern = "".join(
            f"(?:{'|'.join(map(re.escape, slot.options))})" if isinstance(slot, Choice) else " (.+?)"
            for slot in self.slots
        )
        match = re.fullmatch(pattern + r"\.", text)
        return match.groups() if match else None


def _on(place: str) -> str:
    at = "intersection" in place or "roundabout" in place or "market" in place.split()[-1]
    return f"at {place}" if at else f"on {place}"


def request(scene: Scene) -> str:
    """Writes what a model is asked for: every factor but the camera, whose words are given."""
    told = {
        "Subject": scene.subject,
        "Place": scene.place,
        "Weather": scene.weather,
        "Time": scene.time,
        "Region": scene.region,
    }
    return ". ".join(f"{name}: {value}" for name, value in told.items()) + ".\nPrompt:"


def _blank(options: Sequence[str], before: str = " ") -> Choice:
    return Choice(tuple(before + option for option in options))


def place_first(scene: Scene) -> Form:
    """Lays out: camera, place, region, weather, time, then what is to be seen there."""
    return Form(
        request(scene),
        (
            _blank(CAMERAS[scene.camera]),
            _blank(PLACES[scene.place]),
            _blank(scene.regions()),
            _blank(WEATHERS[scene.weather]),
            _blank(TIMES[scene.time]),
            Choice((", with",)),
            Free(4, 16, banned=ELSEWHERE | (PLACE_WORDS - LOOSE_WORDS)),
        ),
    )


def subject_first(scene: Scene) -> Form:
    """Lays out: camera, what is to be seen, then places, region, time and weather."""
    return Form(
        request(scene),
        (
            _blank(CAMERAS[scene.camera]),
            Free(4, 12, banned=ELSEWHERE | PLACE_WORDS | {"in", "on", "at"}),
            _blank([_on(place) for place in PLACES[scene.place]], ", "),
            _blank(scene.regions()),
            _blank(TIMES[scene.time], ", "),
            _blank(WEATHERS[scene.weather]),
        ),
    )


def whole_sentence(scene: Scene) -> Form:
    """Lays out nothing but the first words: the model writes the sentence."""
    return Form(request(scene), (_blank(CAMERAS[scene.camera]), Free(8, 40, SENTENCE)))
