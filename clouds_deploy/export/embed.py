"""Classes of text-headed graphs: other ones for a run's bundles, or the bundle's own inside the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.bundles.tensors import Array
from clouds_deploy.bundles.vocabulary import Vocabulary


def embed_classes(run: str | Path, classes: Sequence[Sequence[str]], *, out: str | Path) -> dict[str, Any]:
    """Embeds the names of other classes with a text-headed run's own CLIP, for its bundles.

    With the geometric ensemble, a class that shares a name with one of the training's counts CLIP's opinion
    as those do (`model.text.alpha`), any other as unseen ones do (`model.text.beta`).

    Args:
        run: The finished run that the bundle was exported from.
        classes: For each class its synonyms, the first of which becomes its name.
        out: The .npz file; pass it to `open_model(vocabulary=Vocabulary.load(out))`.

    Returns:
        `out`, `classes` and `width` of the vectors.

    Raises:
        CloudsError: The run has the linear head; a class has no name; there are more than 255;
            the text tower cannot be had, or its weights are random, so that nothing fits them.
    """
    from clouds_deploy.models.clouds.segmenter import embed_names
    from clouds_deploy.models.clouds.store import load_run

    recipe = load_run(Path(run))[0]
    model = recipe.model
    vectors = embed_names(model, classes)
    seen = {name for names in recipe.data.classes.synonyms for name in names}
    share = [model.text.alpha if seen & set(names) else model.text.beta for names in classes]
    made = Vocabulary(tuple(names[0] for names in classes), vectors.numpy(), np.array(share, np.float32))
    made.check("the vocabulary")
    made.save(Path(out))
    return {"out": str(out), "classes": list(made.names), "width": made.vectors.shape[-1]}


def fix_inputs(graph: Path, feeds: Mapping[str, Array], out: Path) -> None:
    """Writes a graph with some inputs as constants.

    Args:
        graph: The ONNX file.
        feeds: The inputs' values by name.
        out: The file to write; weights over 2 GB go beside it, as `<name>.data`.
    """
    import onnx
    from onnx import numpy_helper

    from clouds_deploy.export import trace

    model = onnx.load(str(graph))
    kept = [value for value in model.graph.input if value.name not in feeds]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in feeds.items())
    apart = sum(tensor.ByteSize() for tensor in model.graph.initializer) > trace.LARGEST_FILE
    place = f"{out.name}.data" if apart else None
    onnx.save(model, str(out), save_as_external_data=apart, location=place, size_threshold=256)
