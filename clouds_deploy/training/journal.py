"""The record of a training: metrics.jsonl always, TensorBoard's files if it is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from clouds_deploy.artifacts import read_json_lines, storage_error, write_text

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Lines of a run's metrics.jsonl; one that a kill cut short is left out."""
    return read_json_lines(run / METRICS)


class Journal:
    """Appends one line per event, each with the number of steps done.

    Args:
        run: The run directory.
        step: Steps done so far; later lines, in a run that is being resumed, are removed.
        trained: Whether no step is left; the final evaluation is repeated then, so its line is removed too.
    """

    def __init__(self, run: Path, step: int, *, trained: bool = False) -> None:
        kept = [
            line
            for line in read_metrics(run)
            if line["step"] < step or (line["step"] == step and not (trained and "miou" in line))
        ]
        write_text(run / METRICS, "".join(json.dumps(line) + "\n" for line in kept))
        self._path = run / METRICS
        self._board = _tensorboard(run / TENSORBOARD, step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one line.

        Args:
            step: Steps done.
            values: Values by name; TensorBoard gets the numbers among them.

        Raises:
            CloudsError: The disk is full or the place cannot be written.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                if self._board is not None and isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, step)
        except OSError as error:
            raise storage_error(self._path, error) from error

    def __enter__(self) -> Journal:
        """The journal itself; leaving closes TensorBoard's file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._board is None:
            return
        try:
            self._board.close()
        except OSError as fault:
            if error is None:  # the first cause is told
                raise storage_error(self._path, fault) from fault


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    try:
        return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
    except OSError as error:
        raise storage_error(folder, error) from error
