"""Example prompts for few-shot prompting of a language model; never part of the results.

A small model copies its examples, so there are more than it sees at a time: each batch gets a few others, and
a draft that shares four words in a row with any of them is rejected.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from clouds_deploy.generation.form import Form, place_first, request, subject_first, whole_sentence
from clouds_deploy.generation.scenes import Scene

HEAD = "Prompts for a text-to-image model. Each one describes a realistic photo of a street.\n\n"
_SHOWN = 5


@dataclass(frozen=True)
class _Example:
    """One scene, worded in three ways.

    Attributes:
        scene: Its factors.
        camera: The first words.
        place: Place and region.
        when: Time of day.
        weather: Weather.
        seen: Visible things.
    """

    scene: Scene
    camera: str
    place: str
    when: str
    weather: str
    seen: str

    def place_first(self) -> str:
        return f"{self.camera} {self.place} {self.weather} {self.when}, with {self.seen}."

    def subject_first(self) -> str:
        at = "at" if "intersection" in self.place or "roundabout" in self.place else "on"
        return f"{self.camera} {self.seen}, {at} {self.place}, {self.when} {self.weather}."

    def whole_sentence(self) -> str:
        at = "at" if "intersection" in self.place or "roundabout" in self.place else "on"
        return f"{self.camera} {self.seen} {at} {self.place} {self.when} {self.weather}."


_EXAMPLES = (
    _Example(
        Scene("a bus", "city street", "heavy rain", "dusk", "the United Kingdom", "plain"),
        "A photo of",
        "a busy city street in London",
        "at dusk",
        "in heavy rain",
        "a red bus passing lit shop windows and a crowd at the bus stop",
    ),
    _Example(
        Scene("cyclists", "intersection", "snow", "morning", "Norway", "dashcam"),
        "A dashcam photo of",
        "a busy intersection in Oslo",
        "in the morning",
        "in light snow",
        "two cyclists waiting next to a white van at a red light",
    ),
    _Example(
        Scene("parked cars", "residential street", "clear", "noon", "Argentina", "street level"),
        "A street-level photo of",
        "a quiet residential street in Argentina",
        "at noon",
        "under a clear sky",
        "parked cars in the shade of old trees",
    ),
    _Example(
        Scene("a truck", "country road", "fog", "dawn", "Spain", "wide"),
        "A wide-angle photo of",
        "a country road in Spain",
        "at dawn",
        "in thick fog",
        "a loaded truck coming around a bend beside a low stone wall",
    ),
    _Example(
        Scene("pedestrians", "avenue", "overcast", "night", "Turkey", "plain"),
        "A picture of",
        "a wide avenue in Istanbul",
        "at night",
        "under an overcast sky",
        "pedestrians crossing in front of waiting taxis and tall lamps",
    ),
    _Example(
        Scene("road signs", "roundabout", "haze", "afternoon", "South Africa", "wide"),
        "A wide-angle photo of",
        "a large roundabout in Cape Town",
        "in the afternoon",
        "in hazy air",
        "blue road signs on steel poles and a line of minibuses",
    ),
    _Example(
        Scene("a tram", "old town street", "light rain", "dusk", "Portugal", "dashcam"),
        "A dashcam photo of",
        "a narrow old town street in Lisbon",
        "just after sunset",
        "in light rain",
        "a yellow tram climbing past balconies and a parked scooter",
    ),
    _Example(
        Scene("children", "village street", "after rain", "morning", "Ireland", "street level"),
        "A street-level snapshot of",
        "a small village street in Ireland",
        "early in the morning",
        "after the rain",
        "three children in school uniforms walking along a hedge",
    ),
    _Example(
        Scene("a motorcycle", "market street", "clear", "noon", "Vietnam", "plain"),
        "A snapshot of",
        "a crowded market street in Hanoi",
        "at midday",
        "in clear weather",
        "a motorcycle loaded with baskets squeezing past fruit stalls",
    ),
    _Example(
        Scene("traffic lights", "bridge", "thunderstorm", "night", "China", "wide"),
        "A wide photo of",
        "a long bridge in Shanghai",
        "late at night",
        "in a thunderstorm",
        "green traffic lights above slow lanes of cars and a guard rail",
    ),
)

LAYOUTS: Mapping[str, tuple[Callable[[Scene], Form], Callable[[_Example], str]]] = {
    "place_first": (place_first, _Example.place_first),
    "subject_first": (subject_first, _Example.subject_first),
    "whole_sentence": (whole_sentence, _Example.whole_sentence),
}
"""Layouts of prompts: the form to fill in, and the wording of an example."""


def lesson(layout: str, seed: int) -> str:
    """Text before every request of a layout: the task, and a few examples.

    Args:
        layout: One of `LAYOUTS`.
        seed: Of the choice and order of the examples.
    """
    _, put = LAYOUTS[layout]
    chosen = random.Random(seed).sample(_EXAMPLES, _SHOWN)
    return HEAD + "".join(f"{request(example.scene)} {put(example)}\n\n" for example in chosen)


def shown_sentences() -> tuple[str, ...]:
    """Visible things of all examples, which a prompt must not repeat."""
    return tuple(example.seen for example in _EXAMPLES)
