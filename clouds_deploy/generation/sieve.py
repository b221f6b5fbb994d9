"""Filter of drafts: by form, by words, and by similarity to earlier ones.

A small model makes mistakes: it repeats the examples, contradicts the weather, names towns, stops in the
middle, or writes unlikely text. Every mistake has a name here, and the manifest counts them. Nothing is
corrected: a draft is accepted as it was written, or rejected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from clouds_deploy.generation.form import Form, Free
from clouds_deploy.generation.scenes import SUBJECTS, WEATHERS, Scene
from clouds_deploy.generation.words import (
    LOOSE_WORDS,
    OFF_WORDS,
    PLACE_WORDS,
    SKY_WORDS,
    TIME_WORDS,
    UNFINISHED_WORDS,
    WEATHER_WORDS,
    grams,
    words_of,
)
from clouds_deploy.generation.writer import Draft

_SINGULAR_S = ("ss", "us")


class Sieve:
    """Accepts drafts or returns the reason why not; remembers accepted ones.

    Args:
        shown: Sentences of the examples.
        most_doubt: Largest accepted mean negative log-likelihood of a draft, in nats a token.
        alike: 0..1: a free part that shares more of its word pairs with an earlier one is rejected.
    """

    def __init__(self, shown: Iterable[str], most_doubt: float = 1.4, alike: float = 0.5) -> None:
        self.most_doubt, self.alike = most_doubt, alike
        self._shown = {gram for sentence in shown for gram in grams(words_of(sentence), 4)}
        self._taken: list[set[tuple[str, ...]]] = []

    def fault(self, scene: Scene, form: Form, draft: Draft) -> str | None:
        """Fault of a draft in a few fixed words, or None.

        A draft without fault is remembered, so that the next similar one is rejected.
        """
        free = form.parse(" " + draft.text)
        if free is None:
            return "unfinished"
        words = words_of(" ".join(free))
        names = re.search(r"[A-Z]", " ".join(free))
        if names and len(form.slots) > 2:
            return "a name"
        slots = [slot for slot in form.slots if isinstance(slot, Free)]
        if any(not s.least <= len(words_of(f)) <= s.most for s, f in zip(slots, free, strict=True)):
            return "too short or too long"
        checks = (self._writing(free, words), self._matter(scene, form, words), self._model(words, draft))
        found = next((fault for fault in checks if fault), None)
        if found is None:
            self._taken.append(grams(words, 2))
        return found

    def _writing(self, free: Sequence[str], words: list[str]) -> str | None:
        """Faults of form and grammar."""
        if words[-1] in UNFINISHED_WORDS or words[0] in ("and", "or", "of", "s"):
            return "unfinished"
        long = [w.rstrip("s") for w in words if len(w) > 3 and w not in UNFINISHED_WORDS]
        if len(set(long)) < len(long):
            return "repeats itself"
        pairs = list(pairwise(words))
        if any(a == b for a, b in pairs) or any(_ungrammatical(a, b) for a, b in pairs):
            return "bad grammar"
        return None

    def _matter(self, scene: Scene, form: Form, words: list[str]) -> str | None:
        """Faults of content."""
        said = set(words)
        if not any(word.startswith(subject) for subject in SUBJECTS[scene.subject] for word in said):
            return "not the subject"
        if said & OFF_WORDS:
            return "not a street scene"
        weathers = {w for v, them in WEATHER_WORDS.items() if v != scene.weather for w in them}
        if said & (weathers - WEATHER_WORDS[scene.weather]):
            return "another weather"
        times = {w for v, them in TIME_WORDS.items() if v != scene.time for w in them}
        if said & (times - TIME_WORDS[scene.time]):
            return "another time of day"
        return self._whole(scene, said) if len(form.slots) == 2 else self._part(scene, form, said)

    def _part(self, scene: Scene, form: Form, said: set[str]) -> str | None:
        """Faults of a part of a sentence: repetition of the given words."""
        last = isinstance(form.slots[-1], Free)
        if said & (PLACE_WORDS - (LOOSE_WORDS if last else frozenset())):
            return "says the place twice"
        if said & (WEATHER_WORDS[scene.weather] | TIME_WORDS[scene.time] | SKY_WORDS):
            return "says the weather or time twice"
        return None

    def _whole(self, scene: Scene, said: set[str]) -> str | None:
        """Faults of a whole sentence: missing factors."""
        if not said & PLACE_WORDS:
            return "not a street scene"
        wordings = {w for wording in WEATHERS[scene.weather] for w in words_of(wording) if len(w) > 4}
        if not said & (WEATHER_WORDS[scene.weather] | wordings):
            return "no weather"
        if not said & TIME_WORDS[scene.time]:
            return "no time of day"
        return None

    def _model(self, words: list[str], draft: Draft) -> str | None:
        """Faults of origin: copied, unlikely, or similar to an earlier draft."""
        if grams(words, 4) & self._shown:
            return "copies an example"
        if draft.doubt is not None and draft.doubt > self.most_doubt:
            return "doubted by the model itself"
        pairs = grams(words, 2)
        if any(len(pairs & other) > self.alike * min(len(pairs), len(other)) for other in self._taken):
            return "like an earlier one"
        return None


def _ungrammatical(first: str, second: str) -> bool:
    """Whether two neighbouring words are a frequent mistake with articles."""
    if first == "a":
        plural = second.endswith("s") and not second.endswith(_SINGULAR_S)
        return plural or second[0] in "aeio" or second.endswith("ing") or second in UNFINISHED_WORDS
    if first == "an":
        return second[0] not in "aeiouh" or second in UNFINISHED_WORDS
    return first == "the" and second in UNFINISHED_WORDS
