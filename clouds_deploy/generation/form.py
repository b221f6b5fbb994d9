"""Forms of prompts: given words, words that the model chooses, and words that it writes freely.

A small model that writes a whole sentence omits half of the requested factors. A form contains them all: the
model chooses one of several wordings of each by likelihood, and writes the text around them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from clouds_deploy.generation.scenes import CAMERAS, PLACES, TIMES, WEATHERS, Scene
from clouds_deploy.generation.words import ELSEWHERE, LOOSE_WORDS, PLACE_WORDS

LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz-' ")
"""Characters of a free part of a sentence: no names, no numbers."""
SENTENCE = LETTERS | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ,")
"""Characters of a free whole sentence."""


@dataclass(frozen=True)
class Choice:
    """One of several wordings; a single one is given.

    Attributes:
        options: The wordings, each with the preceding blank or comma.
    """

    options: tuple[str, ...]


@dataclass(frozen=True)
class Free:
    """Words that the model writes.

    Attributes:
        least: Smallest number of words.
        most: Largest number of words.
        letters: The characters that belong to it; a full stop, a line break or a comma that doesn't ends it.
        banned: Forbidden words in lower case.
    """

    least: int
    most: int
    letters: frozenset[str] = LETTERS
    banned: frozenset[str] = frozenset()


Slot = Choice | Free


@dataclass(frozen=True)
class Form:
    """A prompt to fill in.

    Attributes:
        request: Text for the model; the prompt follows it.
        slots: The prompt's parts in order, without the full stop at its end.
    """

    request: str
    slots: tuple[Slot, ...]

    def parse(self, text: str) -> tuple[str, ...] | None:
        """Free parts of a filled form, or None if the text does not match it.

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
    """Request to the model: every factor but the camera, whose words are given."""
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
    """Form with camera, place, region, weather, time, then free text about visible things."""
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
    """Form with camera, free text about visible things, then place, region, time and weather."""
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
    """Form with only the first words given: the model writes the sentence."""
    return Form(request(scene), (_blank(CAMERAS[scene.camera]), Free(8, 40, SENTENCE)))
