"""Class names as vectors, which the text head compares queries with.

A vocabulary is a tensor (C, S, D): for each of C classes, S unit vectors, one a synonym. Classes with fewer
synonyms repeat their first one, which changes nothing, because the best synonym decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import CITYSCAPES

_SIZES = ("small", "medium", "large")

TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    *(f"a photo of a {size} {{}}." for size in _SIZES),
    *(f"This is a photo of a {size} {{}}." for size in _SIZES),
    *(f"There is a {size} {{}} in the scene." for size in _SIZES),
)
"""The 14 ViLD sentences around a name (docs/explanation/method.md 2.4).

The final full stops are present or missing as in FC-CLIP: they are tokens, and change the vectors.
"""

_BATCH = 128


def class_synonyms() -> tuple[tuple[str, ...], ...]:
    """Synonyms of the 19 Cityscapes classes, as published."""
    return CITYSCAPES.synonyms


def embed_vocabulary(clip: Any, tokenizer: Any, classes: Sequence[Sequence[str]]) -> Tensor:
    """Embeds class names with a CLIP text tower (docs/explanation/method.md 2.4).

    Each name goes into every template; the sentences' unit vectors are averaged and normalised again.

    Args:
        clip: An open_clip model; its `encode_text` is called.
        tokenizer: The tokenizer that belongs to it.
        classes: For each class its synonyms, at least one.

    Returns:
        (C, S, D) float32 unit vectors, S the largest number of synonyms.

    Raises:
        CloudsError: A class has no name.
    """
    for index, names in enumerate(classes):
        if not names or not all(name.strip() for name in names):
            raise CloudsError(f"class {index} of the vocabulary has no name", "give every class a name")
    sentences = [template.format(name) for names in classes for name in names for template in TEMPLATES]
    device = next(clip.parameters()).device
    with torch.no_grad():
        parts = [
            F.normalize(
                clip.encode_text(tokenizer(sentences[start : start + _BATCH]).to(device)).float(), dim=-1
            )
            for start in range(0, len(sentences), _BATCH)
        ]
        vectors = torch.cat(parts).unflatten(0, (-1, len(TEMPLATES))).mean(dim=1)
        vectors = F.normalize(vectors, dim=-1)
    return pad_synonyms(vectors, [len(c) for c in classes])


def pad_synonyms(names: Tensor, counts: Sequence[int]) -> Tensor:
    """Vocabulary from a flat list of name vectors.

    Args:
        names: (sum of counts, D).
        counts: Synonyms of each class.

    Returns:
        (C, max(counts), D); short rows repeat their first vector.
    """
    most = max(counts)
    rows = [torch.cat((row, row[:1].expand(most - len(row), -1))) for row in names.split(list(counts))]
    return torch.stack(rows)
