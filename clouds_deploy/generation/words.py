"""Words that indicate a weather, a time, a place, or something else than a street scene."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


WEATHER_WORDS: Mapping[str, frozenset[str]] = {
    "clear": _set("clear sun sunny sunlight sunshine cloudless"),
    "overcast": _set("overcast cloud clouds cloudy"),
    "light rain": _set("rain rainy raining drizzle drizzling wet puddles"),
    "heavy rain": _set("rain rainy raining downpour wet puddles"),
    "thunderstorm": _set("storm stormy thunderstorm thunder lightning rain rainy wet"),
    "fog": _set("fog foggy mist misty"),
    "snow": _set("snow snowy snowing snowfall snow-covered"),
    "haze": _set("haze hazy dust dusty smog"),
    "after rain": _set("rain rainy wet puddle puddles"),
}
TIME_WORDS: Mapping[str, frozenset[str]] = {
    "dawn": _set("dawn sunrise morning"),
    "morning": _set("morning"),
    "noon": _set("noon midday"),
    "afternoon": _set("afternoon"),
    "dusk": _set("dusk sunset evening twilight"),
    "night": _set("night midnight nighttime"),
}
SKY_WORDS = _set("sky skies day daylight sunlit moon stars")
PLACE_WORDS = _set(
    "street streets road roads avenue highway freeway motorway roundabout bridge intersection "
    "crossroads crossroad city town village market alley boulevard neighborhood country countryside"
)
LOOSE_WORDS = _set("street road lamp lamps")
OFF_WORDS = _set(
    "photo picture image snapshot prompt camera view says say saying reads reading reader called "
    "named room kitchen office bedroom indoors inside station subway runway airport boat ship river "
    "sea beach i you we he she me my your his her our this these those which who what he's it's"
)
UNFINISHED_WORDS = _set(
    "a an the and or of in on at to by with from for into under over between behind beside through as "
    "that its their is are was while near along across past against around very more her his"
)

ELSEWHERE = OFF_WORDS | SKY_WORDS | frozenset().union(*WEATHER_WORDS.values(), *TIME_WORDS.values())
"""Words that are wrong in the free part of a given sentence."""


def words_of(text: str) -> list[str]:
    """Words of a text in lower case, without punctuation."""
    return re.findall(r"[a-z][a-z'-]*", text.lower())


def grams(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    """All sequences of `size` neighbouring words."""
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}
