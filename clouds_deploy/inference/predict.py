"""`predict`: label images, folders and video into one directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import atomic_directory, write_manifest
from clouds_deploy.bundles.packed import unpacked
from clouds_deploy.console import Advance, progress
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.segmenter import Predictor

KIND = "prediction"
LABELS = "labels"
OVERLAYS = "overlays"
CONFIDENCES = "confidences"


@dataclass(frozen=True)
class Item:
    """One file to label, and what to call its results: a relative path without suffix."""

    path: Path
    name: str
    video: bool


def predict_paths(
    predictor: Predictor,
    paths: Sequence[Path],
    out: Path,
    *,
    overlays: bool = True,
    confidences: bool = False,
) -> dict[str, Any]:
    """Label files and write the labels down.

    Label maps are PNGs of train ids under `labels/`, named like their image (and, in a folder that was
    given, under its subfolders); names that would collide get their file type and then a number added. A
    video becomes a folder of label maps. Overlays go under `overlays/`: with a legend for an image, as an MP4
    without one for a video.

    Args:
        predictor: What labels.
        paths: Images, videos, and folders of both.
        out: The directory to make.
        overlays: Whether to draw overlays too.
        confidences: Whether to write how sure the labels are, too: an 8-bit grey PNG per image (not for
            videos) under `confidences/`, 255 where the model is certain, as `refine` reads them.

    Returns:
        `out`, `images` and `frames` labelled, `failed`: for every file that could not be, `path`, `fault`
        and `fix`. The caller's exit code is 1 when any failed.

    Raises:
        CloudsError: A path is not there, a folder holds nothing to label, or no file could be labelled
            (exit code 1; nothing is left behind).
    """
    from clouds_deploy.data.video import frame_count

    items = list(list_items(paths))
    failed: list[dict[str, str]] = []
    images = frames = 0
    with atomic_directory(out) as directory, progress("predict", len(items), "file") as advance:
        for done, item in enumerate(items):
            try:
                if item.video:
                    frame_count(item.path)  # opens it, so that a bad one leaves no folder
                    frames += _video(predictor, item, directory, overlays, advance, done)
                else:
                    label_image(predictor, item, directory, overlays, confidences)
                    images += 1
            except CloudsError as error:
                failed.append({"path": str(item.path), "fault": error.message, "fix": error.hint})
            advance(done + 1, item.path.name)
        if not images + frames:
            first = failed[0]
            raise CloudsError(
                f"none of {len(items)} files could be labelled; first: {first['fault']}",
                first["fix"],
                exit_code=1,
            )
        write_manifest(
            directory,
            KIND,
            predictor=predictor.describe(),
            inputs={item.name: str(item.path) for item in items},
            images=images,
            frames=frames,
            failed=failed,
        )
    return {"out": str(out), "images": images, "frames": frames, "failed": failed}


def list_items(paths: Sequence[Path]) -> Iterator[Item]:
    """List what to label, every result under a name of its own.

    Raises:
        CloudsError: A path is not there, or a folder holds nothing to label.
    """
    from clouds_deploy.data.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, list_files

    taken: set[str] = set()
    for root in paths:
        for path in list_files([root], IMAGE_SUFFIXES | VIDEO_SUFFIXES):
            inside = path.relative_to(root) if root.is_dir() else Path(path.name)
            name = inside.with_suffix("").as_posix()
            if name in taken:
                name = f"{name}_{path.suffix.lstrip('.')}"
            base, number = name, 2
            while name in taken:
                name, number = f"{base}-{number}", number + 1
            taken.add(name)
            yield Item(path, name, path.suffix.lower() in VIDEO_SUFFIXES)


def label_image(predictor: Predictor, item: Item, directory: Path, overlays: bool, confidences: bool) -> None:
    """Label one image and write down what was asked for; see `predict_paths`."""
    from clouds_deploy.data.images import read_image, write_png
    from clouds_deploy.data.overlay import overlay_with_legend

    image = read_image(item.path)
    if confidences:
        labels, trust = predictor.predict_with_trust(image)
        write_png(directory / CONFIDENCES / f"{item.name}.png", trust)
    else:
        labels = predictor.predict(image)
    write_png(directory / LABELS / f"{item.name}.png", labels)
    if overlays:
        write_png(directory / OVERLAYS / f"{item.name}.png", overlay_with_legend(image, labels))


def _video(
    predictor: Predictor, item: Item, directory: Path, overlays: bool, advance: Advance, done: int
) -> int:
    """Label a video frame by frame; nothing of it is ever in memory but one frame.

    A damaged video keeps the frames before the damage out of the result: half a video looks whole.
    """
    import contextlib
    import shutil

    from clouds_deploy.data.images import write_png
    from clouds_deploy.data.overlay import overlay
    from clouds_deploy.data.video import frame_rate, read_frames, write_video

    target = directory / LABELS / item.name
    count = 0
    movie = directory / OVERLAYS / f"{item.name}.mp4"
    try:
        with contextlib.ExitStack() as stack:
            writer = stack.enter_context(write_video(movie, frame_rate(item.path))) if overlays else None
            for frame in read_frames(item.path):
                labels = predictor.predict(frame)
                write_png(target / f"{count:06d}.png", labels)
                if writer is not None:
                    writer.write(overlay(frame, labels))
                count += 1
                advance(done, f"{item.path.name} frame {count}")
            if not count:
                raise CloudsError(f"{item.path} holds no frame", "give a video with pictures in it")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return count


def predict(
    model: str | Path,
    paths: Sequence[str | Path],
    *,
    out: str | Path,
    backend: str = "onnxruntime",
    overlays: bool = True,
    confidences: bool = False,
    shards: bool | None = None,
    runner: str = "local",
) -> dict[str, Any]:
    """Label images, folders of images and videos; see `inference.predict.predict_paths`. For tar shards and
    addresses (`s3://...`) `inference.predict_units.predict_units`.

    Args:
        model: A finished run, or a bundle.
        paths: What to label.
        out: The folder to make.
        backend: Bundles only: the runtime.
        overlays: Whether to draw overlays with a legend too.
        confidences: Whether to write how sure the labels are, too.
        shards: Whether to write tar shards; None writes them where shards are read.
        runner: `local`, or `ray`: on all machines of a Ray cluster.
    """
    from clouds_deploy.jobs.units import is_spread

    if shards or runner != "local" or is_spread(paths, out):
        from clouds_deploy.inference.predict_units import PredictWork, predict_units
        from clouds_deploy.jobs.ray import load_runner

        work = PredictWork(unpacked(Path(model)), backend, overlays=overlays, confidences=confidences)
        return predict_units(work, paths, out, shards=shards, runner=load_runner(runner))
    from clouds_deploy.inference.segmenter import open_predictor

    predictor = open_predictor(unpacked(Path(model)), backend=backend)
    given = [Path(path) for path in paths]
    return predict_paths(predictor, given, Path(out), overlays=overlays, confidences=confidences)
