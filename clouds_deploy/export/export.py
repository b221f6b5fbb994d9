"""`export`: a run or a SAM becomes a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from clouds_deploy.bundles.packed import packing
from clouds_deploy.errors import CloudsError

SAM = "sam:"


def export(
    run: str | Path,
    *,
    out: str | Path,
    engines: Sequence[str] = ("onnxruntime", "openvino"),
    height: int | None = None,
    width: int | None = None,
    scores: bool = False,
    inference: str = "exact",
    images: str | Path | None = None,
    fp16: bool = False,
    bf16: bool = False,
    int8: bool = False,
    calibrate: str | Path | None = None,
    data: str | Path | None = None,
    layout: str | None = None,
    sms: Sequence[str] = (),
    batch: tuple[int, int, int] = (1, 1, 8),
    weights: str | Path | None = None,
) -> dict[str, Any]:
    """Export a run, or a SAM, to a bundle that passed its gates, a folder or one `.clouds` file.

    `sam:NAME` is a SAM, with `weights` as in `models.sam.build.load_sam`; see `export.sam_bundle.export_sam`.
    All else is a run, or with `weights="random"` a recipe, for a dry run; see `export.bundle.export`. `data`
    and `layout` name labelled images, as in `evaluate`, on which the mIoU that the graph loses is a gate too.

    Of `engines`, those that run on this machine prove the graph, and those in
    `backends.tensorrt.preflight.ENGINES` are built from it, see `EngineOptions`; where only such are named,
    ONNX Runtime proves it.
    """
    from clouds_deploy.backends.tensorrt.options import EngineOptions
    from clouds_deploy.backends.tensorrt.preflight import ENGINES
    from clouds_deploy.config.shipped import load_recipe
    from clouds_deploy.evaluation.datasets import labelled_source
    from clouds_deploy.export.bundle import export as make
    from clouds_deploy.models.clouds.store import random_run

    built = [name for name in engines if name in ENGINES]
    if sms and "tensorrt-rtx" not in built:
        raise CloudsError("--sm is for TensorRT-RTX", "add --engine tensorrt-rtx")
    builds = [EngineOptions(name, tuple(sms) if name != "tensorrt" else (), batch) for name in built]
    provers = tuple(name for name in engines if name not in ENGINES) or ("onnxruntime",)
    if str(run).startswith(SAM):
        from clouds_deploy.export.sam_bundle import export_named

        own = (height, width, scores, inference, int8, calibrate, data, layout)
        if own != (None, None, False, "exact", False, None, None, None):
            words = "--height, --width, --scores, --inference, --int8, --calibrate, --data and --layout"
            hint = f"leave them out: {run} has its own size, and no classes"
            raise CloudsError(f"{words} are for segmenters", hint)
        name = str(run).removeprefix(SAM)
        kinds = {"fp16": fp16, "bf16": bf16}
        with packing(Path(out)) as place:
            made = export_named(name, weights, place, engines=provers, images=images, builds=builds, **kinds)
        return {**made, "out": str(out)}
    if weights not in (None, "random") or (weights and Path(run).is_dir()):
        hint = "leave it out; or give sam:NAME, or a recipe's name with --weights random for a dry run"
        raise CloudsError("--weights is for SAMs: a run has its own", hint)
    untrained = random_run(load_recipe(str(run))) if weights else nullcontext(Path(run))
    with packing(Path(out)) as place, untrained as opened:
        made = make(
            opened,
            place,
            engines=provers,
            height=height,
            width=width,
            scores=scores,
            inference=inference,
            images=Path(images) if images else None,
            fp16=fp16,
            bf16=bf16,
            int8=int8,
            calibrate=Path(calibrate) if calibrate else None,
            task=None if data is None and layout is None else labelled_source(opened, data, layout),
            builds=builds,
        )
    return {**made, "out": str(out)}
