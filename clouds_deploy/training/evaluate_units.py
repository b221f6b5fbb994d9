"""`evaluate` unit by unit: on the machines of a cluster, or with a record of what is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clouds_deploy.artifacts import MANIFEST, sha256
from clouds_deploy.data.storage import Place
from clouds_deploy.data.units import Span, Unit, cut
from clouds_deploy.metrics import ConfusionMatrix
from clouds_deploy.runtime.results import Outcome, Results
from clouds_deploy.runtime.spread import Runner, run_here, run_units
from clouds_deploy.training.candidate import Candidate, open_candidate
from clouds_deploy.training.evaluate import BLOCK, Evaluation, evaluate
from clouds_deploy.training.sources import Selection

if TYPE_CHECKING:
    from clouds_deploy.data.dataset import Source

KIND = "evaluation"


class EvaluateWork:
    """Counts the pixels of a unit's images.

    Args:
        model: A finished run, or a bundle.
        backend: Bundles only: the runtime.
        metric: `native` or `official`; None means the recipe's.
        sources: The images, by what they are called.
        candidate: The model, loaded; one that travels to another process is loaded again there.
    """

    kind = KIND

    def __init__(
        self,
        model: Path,
        backend: str,
        metric: str | None,
        sources: Mapping[str, Source],
        candidate: Candidate | None = None,
    ) -> None:
        self.model, self.backend, self.metric, self.sources = model, backend, metric, sources
        self._candidate = candidate

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "model": self.model.absolute(), "_candidate": None}

    @property
    def candidate(self) -> Candidate:
        """Give the model."""
        if self._candidate is None:
            self._candidate = open_candidate(self.model, self.backend, self.metric)
        return self._candidate

    @property
    def gpu(self) -> bool:
        """See `Work`."""
        return self.candidate.backend == "torch"

    def settings(self) -> dict[str, Any]:
        """See `Work`."""
        return {
            "model": sha256(self.model / MANIFEST),
            "backend": self.candidate.backend,
            "metric": self.candidate.metric,
            "data": {name: len(source) for name, source in self.sources.items()},
        }

    def _images(self, unit: Unit) -> Selection:
        assert isinstance(unit, Span)
        return Selection(list(self.sources.values())[unit.part], unit.numbers)

    def identity(self, unit: Unit) -> dict[str, str]:
        """See `Work`."""
        images = self._images(unit)
        files = [file for index in range(len(images)) for file in images.files(index)]
        return {str(file): sha256(file) for file in files}

    def stage(self, unit: Unit, folder: Path) -> None:
        """See `Work`; images are read as they come."""

    def work(self, unit: Unit, folder: Path) -> Outcome:
        """See `Work`."""
        found = evaluate(self.candidate.predict, self._images(unit), self.candidate.metric)
        counts: Any = found.matrix.counts.tolist()
        return Outcome({}, {"images": found.images, "counts": counts, "failed": []})


def evaluate_units(
    work: EvaluateWork, out: str | Path, *, runner: Runner = run_here
) -> dict[str, Evaluation]:
    """Evaluate block by block, with a record of each, and go on where a killed run stopped.

    Args:
        work: The model and the images.
        out: The folder for the records.
        runner: Who does the units.

    Returns:
        What `evaluate` gives for each source, count by count.

    Raises:
        CloudsError: See `evaluate` and `run_units`.
    """
    results = Results(Place(out), shards=False)
    units = cut([len(source) for source in work.sources.values()], BLOCK)
    records, _, _ = run_units(work, units, results, runner)
    matrices = [ConfusionMatrix() for _ in work.sources]
    for unit, record in zip(units, records, strict=True):
        matrices[unit.part].counts += np.array(record["counts"])
    found = {
        name: Evaluation(matrix, len(source), work.candidate.metric)
        for (name, source), matrix in zip(work.sources.items(), matrices, strict=True)
    }
    facts = {name: one.to_dict() for name, one in found.items()}
    results.seal(KIND, records, **work.settings(), evaluations=facts)
    return found
