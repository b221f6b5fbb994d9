"""`refine` from and into shards and addresses: the files of the folder route, byte for byte."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from clouds_deploy.artifacts import read_manifest, sha256
from clouds_deploy.cli.app import app
from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.data.images import read_image, write_png
from clouds_deploy.errors import CloudsError
from clouds_deploy.jobs.run import run_here
from clouds_deploy.jobs.storage import Place
from clouds_deploy.refinement import refine as verb
from clouds_deploy.refinement.refine import RefineWork, run_refine
from clouds_deploy.refinement.refiner import Refiner
from tests.refinement.fakes import ColourSam, folder, spoil

SUMMARY = ("prompts", "masks_taken", "agreement", "changed", "unlabelled", "per_class", "unlabelled_means")


def make() -> Refiner:
    return Refiner(ColourSam(), RefineConfig())


def make_official() -> Refiner:
    """Rules that draw points by an image's name."""
    return Refiner(ColourSam(), RefineConfig(mode="official"))


def tar(path: Path, members: Mapping[str, Path]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, member in members.items():
            file.add(member, name)
    return path


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as file:
        return {m.name: file.extractfile(m).read() for m in file}  # type: ignore[union-attr]


def upload(root: Path, address: str) -> None:
    place = Place(address)
    for path in root.rglob("*.*"):
        place.put(path, path.relative_to(root).as_posix())


def download(address: str, root: Path) -> Path:
    place = Place(address)
    for name in place.files():
        place.fetch(name, root / name)
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five scenes with labels and confidences: in folders, in shards of either, in shards of both."""
    root = tmp_path_factory.mktemp("tree")
    folder(root, 5)
    for i in range(5):
        sure = np.random.default_rng(i).integers(0, 256, (64, 64), np.uint8)
        write_png(root / "confidences" / f"{i:03d}.png", sure)
    for number, part in enumerate(((0, 1, 2), (3, 4))):
        names = [f"{i:03d}" for i in part]
        images = {f"{n}.png": root / "images" / f"{n}.png" for n in names}
        labels = {f"{n}.labels.png": root / "labels" / f"{n}.png" for n in names}
        sure_ = {f"{n}.confidence.png": root / "confidences" / f"{n}.png" for n in names}
        plain = {f"{n}.png": root / "labels" / f"{n}.png" for n in names}
        tar(root / "image_shards" / f"{number}.tar", images)
        tar(root / "label_shards" / f"{number}.tar", labels)
        tar(root / "plain_shards" / f"{number}.tar", plain)
        tar(root / "sure_shards" / f"{number}.tar", {**labels, **sure_})
        tar(root / "both_shards" / f"{number}.tar", {**images, **labels})
    for kind in ("labels", "confidences"):
        shutil.copytree(root / kind, root / "predicted" / kind)
    return root


def reference(tree: Path, out: Path, refiner: Refiner, sure: bool) -> tuple[dict[str, bytes], dict[str, Any]]:
    confidences = tree / "confidences" if sure else None
    told = run_refine(
        RefineWork(lambda: refiner, tree / "labels", confidences=confidences), tree / "images", out
    )
    return {p.name: p.read_bytes() for p in (out / "labels").glob("*.png")}, told


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(
    ("images", "labels", "sure", "shards"),
    [
        ("image_shards", "label_shards", None, None),
        ("image_shards", "plain_shards", None, False),
        ("both_shards", "both_shards", None, None),
        ("image_shards", "sure_shards", "implied", None),
        ("image_shards", "labels", "confidences", None),
        ("images", "labels", None, True),
        ("images", "labels", None, False),
        ("images", "predicted", "implied", False),
    ],
)
def test_the_bytes_of_the_folder(
    images: str, labels: str, sure: str | None, shards: bool | None, remote: bool, tree: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(verb, "BLOCK", 2)
    wanted, told = reference(tree, tmp_path / "reference", make(), sure is not None)
    root: str = str(tree)
    if remote:
        root = f"memory://{tmp_path.name}"
        for name in {images, labels, sure} - {None, "implied"}:
            upload(tree / str(name), f"{root}/{name}")
    out = f"{root}/out" if remote else str(tmp_path / "out")
    confidences = None if sure in (None, "implied") else f"{root}/{sure}"
    work = RefineWork(make, f"{root}/{labels}", confidences=confidences, batch=3, overlays=2)
    result = run_refine(work, f"{root}/{images}", out, shards=shards)
    assert {key: result[key] for key in SUMMARY} == {key: told[key] for key in SUMMARY}
    assert (result["images"], result["failed"]) == (5, [])
    got = download(out, tmp_path / "got")
    assert (
        read_manifest(got, "refinement")["inputs"]
        == read_manifest(tmp_path / "reference", "refinement")["inputs"]
    )
    packed = {name: data for path in got.glob("*.tar") for name, data in members(path).items()}
    assert bool(packed) == (shards is not False)
    found = {n.replace(".labels", ""): d for n, d in packed.items() if n.endswith(".labels.png")}
    found |= {p.name: p.read_bytes() for p in (got / "labels").glob("*.png")}
    assert found == wanted
    drawn = [n for n in packed if n.endswith(".overlay.png")] + list((got / "overlays").glob("*.png"))
    assert len(drawn) == 2


def test_points_are_drawn_by_the_name(tree: Path, tmp_path: Path) -> None:
    wanted, _ = reference(tree, tmp_path / "reference", make_official(), False)
    work = RefineWork(make_official, tree / "label_shards")
    run_refine(work, tree / "image_shards", tmp_path / "out", shards=False)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out" / "labels").glob("*.png")} == wanted


def test_what_is_done_stays_done(tree: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def run(*given: Any) -> Any:
        for outcome in run_here(*given):
            yield outcome
            raise Killed

    def once(out: str, runner: Any = run_here) -> tuple[dict[str, Any], int]:
        work = RefineWork(make, tree / "label_shards")
        told = run_refine(work, tree / "image_shards", tmp_path / out, runner=runner)
        return told, sum(work.refiner.sam.embedded)  # type: ignore[attr-defined]

    whole, count = once("whole")
    assert count == 5
    with pytest.raises(Killed):
        once("out", run)
    told, count = once("out")
    assert count == 2
    assert told["units_done"] == 1
    assert {key: told[key] for key in SUMMARY} == {key: whole[key] for key in SUMMARY}
    for name in ("0.tar", "1.tar", "records/0.json", "records/1.json"):
        assert sha256(tmp_path / "out" / name) == sha256(tmp_path / "whole" / name)
    assert once("out")[1] == 0
    shutil.copy(tree / "image_shards" / "0.tar", tmp_path / "0.tar")
    work = RefineWork(make, tree / "label_shards" / "0.tar")
    with pytest.raises(CloudsError, match="changed"):
        run_refine(work, tmp_path / "0.tar", tmp_path / "out")


def test_faults_are_told_as_the_folder_route_tells_them(tmp_path: Path) -> None:
    images, labels = folder(tmp_path / "in", 2)
    faults = spoil(tmp_path / "in")
    told = run_refine(RefineWork(make, labels), images, tmp_path / "reference")
    result = run_refine(RefineWork(make, labels), images, tmp_path / "out", runner=run_here)
    assert [(f["path"], f["fix"]) for f in result["failed"]] == [
        (f["path"], f["fix"]) for f in told["failed"]
    ]
    for entry in result["failed"]:
        assert faults[Path(entry["path"]).name] in entry["fault"]
        assert "clouds-" not in entry["fault"]

    shards = tmp_path / "shards"
    tar(shards / "x.tar", {p.name: p for p in sorted(images.glob("*.png"))})
    tar(tmp_path / "maps" / "x.tar", {f"{p.stem}.labels.png": p for p in sorted(labels.glob("*.png"))})
    packed = run_refine(RefineWork(make, tmp_path / "maps"), shards, tmp_path / "packed")
    assert [f["path"] for f in packed["failed"]] == [f"{shards}/x.tar/{name}" for name in sorted(faults)]
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "maps" / "x.tar", tmp_path / "other" / "y.tar")
    with pytest.raises(CloudsError, match=r"has no shard x\.tar"):
        run_refine(RefineWork(make, tmp_path / "other"), shards, tmp_path / "none")


def test_the_verb(tree: Path, tmp_path: Path) -> None:
    """With the packaged SAM, through the command line, from shards and from memory://."""
    root = f"memory://{tmp_path.name}-verb"
    for kind in ("image", "label"):
        Place(f"{root}/{kind}s").put(tree / f"{kind}_shards" / "1.tar", "1.tar")
    for i in (3, 4):
        write_png(tmp_path / "images" / f"{i:03d}.png", read_image(tree / "images" / f"{i:03d}.png"))

    def invoke(images: str, labels: str, out: str, *more: str) -> Any:
        words = ["refine", "--sam", "sam_tiny@256", "--images", images, "--labels", labels, "--out", out]
        return CliRunner().invoke(app, [*words, "--overlays", "0", *more])

    result = invoke(str(tmp_path / "images"), str(tree / "labels"), str(tmp_path / "a"))
    assert result.exit_code == 0, result.output
    result = invoke(f"{root}/images", f"{root}/labels", f"{root}/out", "--json", "--no-shards")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.strip().splitlines()[-1])["images"] == 2
    download(f"{root}/out", tmp_path / "b")
    for i in (3, 4):
        name = f"labels/{i:03d}.png"
        assert sha256(tmp_path / "a" / name) == sha256(tmp_path / "b" / name)
    result = invoke(f"{root}/images", f"{root}/labels", f"{root}/images/out")
    assert "is inside" in str(result.exception)
    result = invoke(f"{root}/images", f"{root}/labels", f"{root}/out", "--no-shards")
    assert "0 units in this run" in result.output


@pytest.mark.slow
def test_ray_makes_the_same_files(tree: Path, tmp_path: Path, two_machines: Any) -> None:
    from clouds_deploy.jobs.ray import load_runner

    for name, runner in (("here", "local"), ("ray", "ray")):
        work = RefineWork(make, tree / "label_shards")
        run_refine(work, tree / "image_shards", tmp_path / name, runner=load_runner(runner))
    for name in ("0.tar", "1.tar", "records/0.json"):
        assert sha256(tmp_path / "ray" / name) == sha256(tmp_path / "here" / name)
