"""`predict` unit by unit: from shards and addresses, into shards and addresses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.predict import KIND, Item, label_image, list_items
from clouds_deploy.inference.segmenter import Predictor, open_predictor
from clouds_deploy.jobs.results import Outcome, Results
from clouds_deploy.jobs.run import Runner, check_apart, fault_entry, rename_fault, run_here, run_units
from clouds_deploy.jobs.storage import Place
from clouds_deploy.jobs.units import Unit, find_units

BLOCK = 256
"""Images of a folder that make a unit."""


class PredictWork:
    """Labels the images of a unit.

    Args:
        model: A finished run, or a bundle.
        backend: Bundles only: the runtime.
        overlays: Whether to draw overlays too.
        confidences: Whether to write how sure the labels are, too.
        predictor: The model, loaded; one that travels to another process is loaded again there.
    """

    kind = KIND
    gpu = False

    def __init__(
        self,
        model: Path,
        backend: str = "onnxruntime",
        *,
        overlays: bool = True,
        confidences: bool = False,
        predictor: Predictor | None = None,
    ) -> None:
        self.model, self.backend = model, backend
        self.overlays, self.confidences = overlays, confidences
        self._predictor = predictor

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "model": self.model.absolute(), "_predictor": None}

    @property
    def predictor(self) -> Predictor:
        """Give the model."""
        if self._predictor is None:
            self._predictor = open_predictor(self.model, backend=self.backend)
        return self._predictor

    def settings(self) -> dict[str, Any]:
        """See `Work`."""
        told = {"overlays": self.overlays, "confidences": self.confidences}
        model = {k: v for k, v in self.predictor.describe().items() if k not in ("path", "device")}
        return {"predictor": model, **told}

    def identity(self, unit: Unit) -> dict[str, str]:
        """See `Work`."""
        return unit.identity()

    def stage(self, unit: Unit, folder: Path) -> None:
        """See `Work`."""
        unit.stage(folder / "images")

    def work(self, unit: Unit, folder: Path) -> Outcome:
        """See `Work`."""
        root, out = folder / "images", folder / "out"
        failed: list[dict[str, str]] = []
        images = 0
        for item in list_items([root]):
            try:
                label_image(self.predictor, item, out, self.overlays, self.confidences)
                images += 1
            except CloudsError as error:
                fault = rename_fault(error, unit, root)
                failed.append(fault_entry(_told(unit, item, root), fault))
        files = {p.relative_to(out).as_posix(): p for p in out.rglob("*.png")} if images else {}
        return Outcome(files, {"images": images, "failed": failed})


def _told(unit: Unit, item: Item, root: Path) -> str:
    return f"{unit.told()}/{item.path.relative_to(root).as_posix()}"


def predict_units(
    work: PredictWork,
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    shards: bool | None = None,
    runner: Runner = run_here,
) -> dict[str, Any]:
    """Label shards and folders, here or at addresses, and go on where a killed run stopped.

    A shard's results are a shard of the same name, with `key.labels.png`, `key.overlay.png` and
    `key.confidence.png`, or files called as `predict_paths` calls them. The bytes of each file are those
    that `predict_paths` writes.

    Args:
        work: The model and what it is to write.
        paths: Shards, and folders of shards or of images.
        out: The folder to fill.
        shards: Whether to write shards; None writes them where shards are read.
        runner: Who does the units.

    Returns:
        As `predict_paths`.

    Raises:
        CloudsError: See `find_units` and `run_units`.
    """
    units = find_units(paths, BLOCK)
    check_apart(Place(out), map(Place, paths))
    chosen = all(unit.shard for unit in units) if shards is None else shards
    results = Results(Place(out), chosen)
    records, failed, _ = run_units(work, units, results, runner)
    images = sum(record["images"] for record in records)
    inputs = {name: digest for record in records for name, digest in record["inputs"].items()}
    facts = {"inputs": inputs, "images": images, "frames": 0, "failed": failed}
    results.seal(KIND, records, predictor=work.predictor.describe(), **facts)
    return {"out": str(out), "images": images, "frames": 0, "failed": failed}
