"""The whole loop on synthetic streets: train, self-train, evaluate, export, bench, predict, report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clouds_deploy
from clouds_deploy.artifacts import (
    MANIFEST,
    check_new,
    discard,
    read_json,
    read_manifest,
    sha256,
    write_json,
    write_text,
)
from clouds_deploy.console import say
from clouds_deploy.errors import CloudsError

if TYPE_CHECKING:
    from clouds_deploy.bench.timing import Stopwatch

SOURCE, TARGET = "game", "photo"
SHOWN = 4
PSEUDO = 24
"""Unseen streets that the model labels and SAM refines."""
JOINT_STEPS, GENERATED = 150, 96
"""Steps of self-training, and synthetic streets of `imagined` that it learns from without their labels."""
_MARK = "quickstart.json"


def quickstart(*, out: str | Path = "quickstart", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Trains `tiny` on synthetic game streets, then self-trains, evaluates, exports, benches and predicts.

    A second call in the same folder resumes where the first one stopped: a finished training of the same
    recipe is kept, the short stages after it are repeated.

    Args:
        out: The folder for everything it makes.
        overrides: `key=value` each, on top of the recipes `tiny` and `tiny_joint`; self-training takes
            no more steps than the recipe `tiny`, and at most `JOINT_STEPS`.

    Returns:
        `game_miou`, `photo_miou`, `gap` of the model that trained itself, `photo_miou_before` of the one that
        did not (percent), `pseudo_labels` (see `_refine`), `steps`, `joint_steps`,
        `gates`, `bench`, `seconds` of each stage, `report`.

    Raises:
        CloudsError: `out` holds something else, or a run of another recipe; a gate failed; see each verb.
    """
    from clouds_deploy.bench.timing import Stopwatch
    from clouds_deploy.config.shipped import load_recipe

    folder = Path(out)
    if not os.path.isfile(folder / _MARK):
        check_new(folder, what="a quickstart")
    watch = Stopwatch()
    if (folder / _MARK).is_file():
        watch.seconds.update(read_json(folder / _MARK).get("seconds", {}))
    write_json(folder / _MARK, {"seconds": watch.seconds})
    run, joint, bundle = folder / "run", folder / "joint", folder / "bundle"

    recipe = load_recipe("tiny", tuple(overrides))
    say("[bold]1/7[/] training the recipe `tiny` on synthetic streets that look like a game")
    _train("tiny", run, tuple(overrides), watch, "train")
    write_json(folder / _MARK, {"seconds": watch.seconds})
    say("[bold]2/7[/] refining pseudo-labels of unseen streets with `sam_tiny`")
    with watch("refine"):
        refined = _refine(folder / "pseudo", run)
    say("[bold]3/7[/] self-training on unlabelled streets with pseudo-labels refined like these")
    changes = (
        f"train.steps={min(JOINT_STEPS, recipe.train.steps)}",
        f"joint.generated_images={min(GENERATED, recipe.data.train_images)}",
        "joint.refresh_every=0",
        "train.eval_every=0",
    )
    _train("tiny_joint", joint, (*overrides, *changes), watch, "self-train", init=run)
    write_json(folder / _MARK, {"seconds": watch.seconds})
    say("[bold]4/7[/] evaluating on 100 more game streets, and on 100 that look like photos")
    with watch("evaluate"):
        scores = {
            name: clouds_deploy.evaluate(model, domain=domain, layout="streets", images=100)
            for name, model, domain in (
                ("before", run, TARGET),
                (SOURCE, joint, SOURCE),
                (TARGET, joint, TARGET),
            )
        }
    say("[bold]5/7[/] exporting to ONNX, checked on ONNX Runtime and OpenVINO")
    with watch("export"):
        exported = clouds_deploy.export(joint, out=_cleared(bundle))
    say("[bold]6/7[/] timing PyTorch, ONNX Runtime and OpenVINO, interleaved")
    with watch("bench"):
        timed = clouds_deploy.bench([bundle], out=_cleared(folder / "bench"), seconds=6.0, stages=False)
    say("[bold]7/7[/] labelling unseen streets with the bundle, and writing the report")
    with watch("predict"):
        pictures = {domain: _draw(folder, domain) for domain in (SOURCE, TARGET)}
        for domain, images in pictures.items():
            clouds_deploy.predict(bundle, images, out=_cleared(folder / "predictions" / domain))
    report = folder / "report.html"
    from clouds_deploy.studies.quickstart_report import write_report

    write_text(report, write_report(folder, scores, exported, timed, pictures, refined, watch.seconds))
    game, photo = scores[SOURCE]["miou"], scores[TARGET]["miou"]
    result = {
        "game_miou": game,
        "photo_miou": photo,
        "photo_miou_before": scores["before"]["miou"],
        "gap": game - photo,
        "steps": read_manifest(run, "run")["steps"],
        "joint_steps": read_manifest(joint, "run")["steps"],
        "pseudo_labels": {name: refined[name] for name in ("before", "after", "unlabelled")},
        "gates": exported["gates"],
        "bench": timed["bundles"][0]["results"],
        "seconds": watch.seconds,
        "report": str(report),
    }
    write_json(folder / _MARK, result)
    return result


def _train(
    recipe: str, out: Path, overrides: tuple[str, ...], watch: Stopwatch, stage: str, init: Path | None = None
) -> None:
    """Trains a recipe, unless a finished run of the same recipe is there."""
    from clouds_deploy.config.shipped import load_recipe
    from clouds_deploy.training.run import check_resumable

    if (out / MANIFEST).is_file():
        check_resumable(out, load_recipe(recipe, overrides))
        return
    begun = out.exists()  # a resumed run has its own weights
    with watch(stage):
        clouds_deploy.train(recipe, overrides=overrides, out=out, resume=begun, init=None if begun else init)


def _cleared(path: Path) -> Path:
    """A path without what an earlier call made there; anything else is left for the stage to refuse.

    Raises:
        CloudsError: It holds a file that the earlier call did not make, or that was changed since.
    """
    if (path / MANIFEST).is_file():
        check_new(path, replace=True)
        for name, entry in read_json(path / MANIFEST).get("files", {}).items():
            file = path / name
            if file.is_file() and (file.stat().st_size != entry["bytes"] or sha256(file) != entry["sha256"]):
                raise CloudsError(f"{file} was changed since it was made", "move it, or choose another --out")
        discard(path)
    return path


def _draw(folder: Path, domain: str) -> list[Path]:
    """The streets that the report shows, rendered to files, as a user would have them."""
    from clouds_deploy.data.images import write_png
    from clouds_deploy.data.sources import StreetsSource

    source = StreetsSource(domain, seed=3, count=SHOWN, height=128, width=256)
    paths = []
    for index in range(SHOWN):
        path = folder / "streets" / domain / f"{source.name(index)}.png"
        write_png(path, source.load(index)[0])
        paths.append(path)
    return paths


def _refine(folder: Path, run: Path) -> dict[str, Any]:
    """Labels unseen streets with the run, refines the labels with SAM, and compares both with the truth.

    Returns:
        `before` and `after`, mIoU in percent, the latter over the pixels that kept a label; `unlabelled`, the
        share of the others; `refined`, what `refine` gave; `right`, name -> share of pixels right before and
        after, for the streets with a picture.
    """
    import numpy as np

    from clouds_deploy.data.images import read_label_ids, write_png
    from clouds_deploy.data.sources import StreetsSource
    from clouds_deploy.evaluation.metrics import ConfusionMatrix
    from clouds_deploy.labels import IGNORE

    source = StreetsSource(TARGET, seed=5, count=PSEUDO, height=128, width=256)
    truths = {}
    for index in range(PSEUDO):
        image, truth = source.load(index)
        assert truth is not None  # synthetic streets have labels
        truths[source.name(index)] = truth
        write_png(folder / "images" / f"{source.name(index)}.png", image)
    predicted, refined = folder / "predicted", folder / "refined"
    clouds_deploy.predict(run, [folder / "images"], out=_cleared(predicted), overlays=False, confidences=True)
    result = clouds_deploy.refine(
        "sam_tiny@384", images=folder / "images", labels=predicted, out=refined, overlays=3
    )
    before, after = ConfusionMatrix(), ConfusionMatrix()
    right = {}
    for name, true in truths.items():
        guess, better = (read_label_ids(root / "labels" / f"{name}.png") for root in (predicted, refined))
        before.update(guess, true)
        after.update(better, np.where(better == IGNORE, IGNORE, true).astype(np.uint8))
        right[name] = float((guess == true).mean()), float((better == true)[better != IGNORE].mean())
    return {
        "before": 100 * before.miou(),
        "after": 100 * after.miou(),
        "unlabelled": result["unlabelled"],
        "refined": result,
        "right": {path.stem: right[path.stem] for path in sorted((refined / "overlays").glob("*.png"))},
    }
