"""Other classes for the bundles of a text-headed run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def embed_classes(run: str | Path, classes: Sequence[Sequence[str]], *, out: str | Path) -> dict[str, Any]:
    """Embeds the names of other classes with a text-headed run's own CLIP, for its bundles.

    With the geometric ensemble, a class that shares a name with one of the training's counts CLIP's opinion
    as those do (`model.text.alpha`), any other as unseen ones do (`model.text.beta`).

    Args:
        run: The finished run that the bundle was exported from.
        classes: For each class its synonyms, the first of which becomes its name.
        out: The .npz file; give it to `BundleSegmenter(vocabulary=Vocabulary.load(out))`.

    Returns:
        `out`, `classes` and `width` of the vectors.

    Raises:
        CloudsError: The run has the linear head; a class has no name; there are more than 255;
            the text tower cannot be had, or its weights are random, so that nothing fits them.
    """
    from clouds_deploy.bundles.vocabulary import embed

    made = embed(Path(run), classes)
    made.save(Path(out))
    return {"out": str(out), "classes": list(made.names), "width": made.vectors.shape[-1]}
