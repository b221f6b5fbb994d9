"""Factors of street scenes, and a balanced choice of scenes.

A language model asked for "street scenes" writes about sunny afternoons. So the values are chosen before it
writes, each factor from its own shuffled deck, and the model is asked for exactly these. A value that does
not fit another (snow in Kenya, pedestrians on a motorway) is exchanged with a later scene.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from clouds_deploy import seeds

WEATHERS: Mapping[str, tuple[str, ...]] = {
    "clear": ("under a clear sky", "in clear weather", "under a cloudless sky"),
    "overcast": ("under an overcast sky", "under heavy grey clouds", "under a cloudy sky"),
    "light rain": ("in light rain", "in drizzling rain", "in a light drizzle"),
    "heavy rain": ("in heavy rain", "in pouring rain", "in a heavy downpour"),
    "thunderstorm": ("in a thunderstorm", "under dark storm clouds", "during a thunderstorm"),
    "fog": ("in thick fog", "in light fog", "in dense fog"),
    "snow": ("in falling snow", "in heavy snowfall", "in light snow"),
    "haze": ("in hazy air", "in a dusty haze", "in thick haze"),
    "after rain": ("after the rain", "just after a rain shower", "with the ground still wet from rain"),
}
"""Wordings of each weather; the model chooses."""

TIMES: Mapping[str, tuple[str, ...]] = {
    "dawn": ("at dawn", "at sunrise", "just before sunrise"),
    "morning": ("in the morning", "early in the morning", "in the late morning"),
    "noon": ("at noon", "at midday", "around noon"),
    "afternoon": ("in the afternoon", "in the late afternoon", "early in the afternoon"),
    "dusk": ("at dusk", "at sunset", "just after sunset"),
    "night": ("at night", "late at night", "around midnight"),
}
"""How each time of day may be put."""

PLACES: Mapping[str, tuple[str, ...]] = {
    "city street": ("a busy city street", "a narrow city street", "a city street lined with shops"),
    "intersection": ("a busy intersection", "a wide intersection", "an intersection with traffic lights"),
    "avenue": ("a wide avenue", "a tree-lined avenue", "a long avenue"),
    "residential street": ("a quiet residential street", "a residential street", "a suburban street"),
    "market street": ("a crowded market street", "a market street", "a street market"),
    "roundabout": ("a roundabout", "a busy roundabout", "a large roundabout"),
    "bridge": ("a road bridge", "a long bridge", "a bridge over a river"),
    "old town street": ("a cobbled old town street", "a narrow old town street", "an old town street"),
    "industrial road": ("a road past warehouses", "a road past factories", "an industrial road"),
    "country road": ("a country road", "a winding country road", "a narrow country road"),
    "highway": ("a four-lane highway", "a wide highway", "a busy highway"),
    "village street": ("a village street", "a small village street", "the main street of a village"),
}
"""How each kind of place may be put."""

SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "cars": ("car",),
    "parked cars": ("car",),
    "a bus": ("bus",),
    "a tram": ("tram",),
    "a truck": ("truck", "lorry"),
    "a delivery van": ("van",),
    "a taxi": ("taxi", "cab"),
    "a motorcycle": ("motorcycle", "motorbike"),
    "cyclists": ("cyclist", "bike", "bicycle"),
    "a parked bicycle": ("bicycle", "bike"),
    "pedestrians": ("pedestrian", "people"),
    "people with umbrellas": ("umbrella", "people"),
    "children": ("child", "children"),
    "traffic lights": ("light",),
    "road signs": ("sign",),
    "a fence and trees": ("fence", "tree"),
}
"""What each subject's words are; one of them must be in the prompt."""

REGIONS: Mapping[str, tuple[str, ...]] = {
    "Japan": ("in Japan", "in Tokyo", "in Osaka"),
    "India": ("in India", "in Mumbai", "in Delhi"),
    "Brazil": ("in Brazil", "in Rio de Janeiro", "in Sao Paulo"),
    "Germany": ("in Germany", "in Berlin", "in Hamburg"),
    "France": ("in France", "in Paris", "in Lyon"),
    "Italy": ("in Italy", "in Rome", "in Milan"),
    "Poland": ("in Poland", "in Warsaw", "in Krakow"),
    "Egypt": ("in Egypt", "in Cairo", "in Alexandria"),
    "Kenya": ("in Kenya", "in Nairobi", "in Mombasa"),
    "Mexico": ("in Mexico", "in Mexico City", "in Guadalajara"),
    "Canada": ("in Canada", "in Toronto", "in Montreal"),
    "the United States": ("in the United States", "in New York", "in Chicago"),
    "Thailand": ("in Thailand", "in Bangkok", "in Chiang Mai"),
    "South Korea": ("in South Korea", "in Seoul", "in Busan"),
    "Australia": ("in Australia", "in Sydney", "in Melbourne"),
    "Sweden": ("in Sweden", "in Stockholm", "in Gothenburg"),
}
"""How each region may be put: the country first, then cities of it."""

CAMERAS: Mapping[str, tuple[str, ...]] = {
    "plain": ("A photo of", "A picture of", "A snapshot of"),
    "dashcam": ("A dashcam photo of", "A dashcam picture of", "A dashcam view of"),
    "wide": ("A wide-angle photo of", "A wide-angle picture of", "A wide photo of"),
    "street level": ("A street-level photo of", "A street-level picture of", "A street-level snapshot of"),
}
"""Wordings of each camera."""

_SNOWLESS = frozenset({"India", "Brazil", "Egypt", "Kenya", "Mexico", "Thailand", "Australia"})
_RURAL = frozenset({"country road", "highway", "village street"})
_ON_FOOT = frozenset(
    {"parked cars", "cyclists", "a parked bicycle", "pedestrians", "people with umbrellas", "children"}
)
_WET = frozenset({"light rain", "heavy rain", "thunderstorm", "after rain", "snow"})


@dataclass(frozen=True)
class Scene:
    """Subject of a prompt: one value of each factor, keys of the tables above."""

    subject: str
    place: str
    weather: str
    time: str
    region: str
    camera: str

    def fits(self) -> bool:
        """Whether the values are compatible."""
        return not (
            (self.weather == "snow" and self.region in _SNOWLESS)
            or (self.place == "highway" and self.subject in (*_ON_FOOT, "a tram"))
            or (self.place in _RURAL and self.subject == "a tram")
            or (self.subject == "people with umbrellas" and self.weather not in _WET)
        )

    def regions(self) -> tuple[str, ...]:
        """Wordings of the region: no city around a country road."""
        return REGIONS[self.region][:1] if self.place in _RURAL else REGIONS[self.region]

    def values(self) -> dict[str, str]:
        """The factors by name."""
        return asdict(self)


FACTORS: Mapping[str, tuple[str, ...]] = {
    "subject": tuple(SUBJECTS),
    "place": tuple(PLACES),
    "weather": tuple(WEATHERS),
    "time": tuple(TIMES),
    "region": tuple(REGIONS),
    "camera": tuple(CAMERAS),
}
"""Every factor's values."""


def deal_scenes(count: int, seed: int) -> list[Scene]:
    """Balanced random scenes.

    Args:
        count: Number of scenes.
        seed: The same gives the same scenes; the first n of a longer list are not those of a shorter one.

    Returns:
        Scenes that fit; within each factor the values' frequencies differ by one at most, except for what
        impossible pairs force (at most a few, at the end of the list).
    """
    dice = seeds.chooser("scenes", seed)
    decks = {name: _deck(values, count, dice) for name, values in FACTORS.items()}
    scenes = [Scene(*cards) for cards in zip(*decks.values(), strict=True)]
    names = list(FACTORS)
    for index, scene in enumerate(scenes):
        for _ in range(200):
            if scenes[index].fits():
                break
            name = dice.choice(names)
            other = dice.randrange(count)
            here, there = scenes[index].values(), scenes[other].values()
            here[name], there[name] = there[name], here[name]
            if Scene(**there).fits() or not scenes[other].fits():
                scenes[index], scenes[other] = Scene(**here), Scene(**there)
        else:
            scenes[index] = _any_fitting(scene, dice)
    return scenes


def _deck(values: tuple[str, ...], count: int, dice: random.Random) -> list[str]:
    """`count` values from whole decks, each shuffled."""
    cards: list[str] = []
    while len(cards) < count:
        cards.extend(dice.sample(values, len(values)))
    return cards[:count]


def _any_fitting(scene: Scene, dice: random.Random) -> Scene:
    """A fitting scene, with incompatible values replaced."""
    while not scene.fits():
        name = dice.choice(list(FACTORS))
        scene = Scene(**{**scene.values(), name: dice.choice(FACTORS[name])})
    return scene


def coverage(scenes: Iterable[Scene]) -> dict[str, dict[str, int]]:
    """Number of occurrences of each value of each factor, including 0."""
    met = {name: Counter[str]() for name in FACTORS}
    for scene in scenes:
        for name, value in scene.values().items():
            met[name][value] += 1
    return {name: {value: met[name][value] for value in values} for name, values in FACTORS.items()}
