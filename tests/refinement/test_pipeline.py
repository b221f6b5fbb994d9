from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.data.images import read_image, read_label_ids, write_png
from clouds_deploy.errors import CloudsError
from clouds_deploy.refinement.changes import add_changes, count_changes, summarize_changes
from clouds_deploy.refinement.pairs import find_pairs, load_pair
from clouds_deploy.refinement.refine import RefineWork, run_refine
from clouds_deploy.refinement.refiner import Refiner
from tests.deadly import wait_until
from tests.refinement.fakes import ColourSam, folder, scene, spoil


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder(tmp_path, 7)
    return tmp_path


def go(tree: Path, sam: ColourSam | None = None, out: str = "out", **settings: Any) -> dict[str, Any]:
    config = RefineConfig(**{k: settings.pop(k) for k in ("mode", "seed") if k in settings})
    refiner = Refiner(sam or ColourSam(), config)
    work = RefineWork(lambda: refiner, tree / "labels", **settings)
    return run_refine(work, tree / "images", tree / out)


def maps(out: Path) -> dict[str, np.ndarray]:
    root = out / "labels"
    return {p.relative_to(root).as_posix(): read_label_ids(p) for p in sorted(root.rglob("*.png"))}


def test_what_comes_out(tree: Path) -> None:
    result = go(tree, batch=3, overlays=2)
    assert (result["images"], result["refined"], result["failed"]) == (7, 7, [])
    assert result["unlabelled_means"] == "ignored"
    assert result["agreement"] + result["changed"] + result["unlabelled"] == pytest.approx(1)
    assert json.loads(json.dumps(result)) == result
    images, labels = zip(*(scene(i) for i in range(7)), strict=True)
    wanted = Refiner(ColourSam(), RefineConfig()).refine(list(images), list(labels))
    found = maps(tree / "out")
    assert list(found) == [f"{i:03d}.png" for i in range(7)]
    assert all(np.array_equal(a.labels, b) for a, b in zip(wanted, found.values(), strict=True))
    manifest = read_manifest(tree / "out", "refinement")
    assert manifest["images"] == 7
    assert manifest["sam"]["sam"] == "colours"
    assert set(manifest["inputs"]["003"]) == {"image", "labels"}
    pictures = sorted((tree / "out" / "overlays").iterdir())
    assert [p.name for p in pictures] == ["001.png", "005.png"]
    assert read_image(pictures[0]).shape[1] > 3 * 480


@pytest.mark.parametrize("mode", ["robust", "official"])
def test_the_batch_does_not_matter(tree: Path, mode: str) -> None:
    for batch in (1, 4, 20):
        go(tree, mode=mode, batch=batch, out=f"out{batch}")
    first = maps(tree / "out1")
    for batch in (4, 20):
        assert all(np.array_equal(a, first[n]) for n, a in maps(tree / f"out{batch}").items())


def test_a_second_run_does_nothing(tree: Path) -> None:
    go(tree)
    stamps = {p: p.stat().st_mtime_ns for p in (tree / "out").rglob("*")}
    sam = ColourSam()
    result = go(tree, sam)
    assert (result["images"], result["refined"], result["images_per_second"]) == (7, 0, None)
    assert sam.embedded == []
    assert {p: p.stat().st_mtime_ns for p in (tree / "out").rglob("*")} == stamps


def test_more_images_are_added_and_lost_ones_made_again(tree: Path) -> None:
    first = go(tree)
    image, labels = scene(50)
    write_png(tree / "images" / "more" / "a.png", image)
    write_png(tree / "labels" / "more" / "a.png", labels)
    (tree / "out" / "labels" / "002.png").unlink()
    (tree / "out" / "labels" / "003.png").write_bytes(b"x")
    sam = ColourSam()
    result = go(tree, sam)
    assert (result["images"], result["refined"], sum(sam.embedded)) == (8, 3, 3)
    assert "more/a.png" in maps(tree / "out")
    assert read_manifest(tree / "out", "refinement")["images"] == 8
    assert result["prompts"] > first["prompts"]
    assert go(tree)["refined"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: go(t, seed=1), "refine.seed was 0, now 1"),
        (lambda t: go(t, mode="official"), "refine.mode was robust, now official"),
        (lambda t: go(t, _named(ColourSam(), "other")), "sam.sam was colours, now other"),
        (lambda t: _swap(t, "images", go), "the image of `001` changed"),
        (lambda t: _swap(t, "labels", go), "the labels of `001` changed"),
        (lambda t: _remove(t, go), "`001`, which is not among the images"),
    ],
)
def test_a_folder_of_something_else_is_refused(
    tree: Path, change: Callable[[Path], object], message: str
) -> None:
    go(tree)
    with pytest.raises(CloudsError, match=message) as caught:
        change(tree)
    assert "--out" in caught.value.hint
    assert read_manifest(tree / "out", "refinement")["images"] == 7


def _named(sam: ColourSam, name: str) -> ColourSam:
    sam.name = name
    return sam


def _swap(tree: Path, kind: str, run: Callable[[Path], object]) -> None:
    shutil.copy(tree / kind / "005.png", tree / kind / "001.png")
    run(tree)


def _remove(tree: Path, run: Callable[[Path], object]) -> None:
    (tree / "images" / "001.png").unlink()
    run(tree)


def test_foreign_folders_are_left_alone(tree: Path) -> None:
    (tree / "out").mkdir()
    (tree / "out" / "precious.txt").write_text("mine")
    with pytest.raises(CloudsError, match="is no refinement"):
        go(tree)
    assert [p.name for p in (tree / "out").iterdir()] == ["precious.txt"]
    (tree / "begun").mkdir()
    (tree / "begun" / ".settings.json.tmp-0123abcd").write_text("{")  # killed at the very start
    assert go(tree, out="begun")["refined"] == 7
    with pytest.raises(CloudsError, match="which is read"):
        go(tree, out="labels/refined")


def test_bad_files_are_listed_and_the_rest_is_done(tree: Path) -> None:
    wanted = spoil(tree)
    for _ in range(2):
        result = go(tree, batch=2)
        assert {Path(f["path"]).name for f in result["failed"]} == set(wanted)
        for entry in result["failed"]:
            assert wanted[Path(entry["path"]).name] in entry["fault"]
            assert entry["fix"]
        assert list(maps(tree / "out")) == [f"{i:03d}.png" for i in range(7)]
        assert len(read_manifest(tree / "out", "refinement")["failed"]) == len(wanted)
    write_png(tree / "images" / "z_text.png", scene(99)[0])
    result = go(tree)
    assert (result["images"], result["refined"], len(result["failed"])) == (8, 1, len(wanted) - 1)


def test_nothing_good_is_an_error(tmp_path: Path) -> None:
    spoil(tmp_path)
    with pytest.raises(CloudsError, match="none of 6 files") as caught:
        go(tmp_path)
    assert caught.value.exit_code == 1


def test_wrong_folders(tree: Path) -> None:
    with pytest.raises(CloudsError, match="there is no folder"):
        find_pairs(tree / "nowhere", tree / "labels")
    with pytest.raises(CloudsError, match="there is no folder"):
        find_pairs(tree / "images", tree / "labels", tree / "nowhere")
    (tree / "empty").mkdir()
    with pytest.raises(CloudsError, match=r"no label map of any of the 7 images") as caught:
        find_pairs(tree / "images", tree / "empty")
    assert "000.png" in caught.value.hint


def test_labels_are_found_as_predict_calls_them(tmp_path: Path) -> None:
    from clouds_deploy.inference.predict import PredictWork, run_predict

    class Constant:
        def predict(self, image: np.ndarray) -> np.ndarray:
            return np.full(image.shape[:2], 13, np.uint8)

        def describe(self) -> dict[str, object]:
            return {"kind": "constant"}

    images = tmp_path / "images"
    for i, name in enumerate(("a.png", "a.jpg", "sub/a.png", "b.c.png")):
        write_png(images / name, scene(i)[0])
    run_predict(PredictWork(Path("none"), predictor=Constant()), [images], tmp_path / "predicted")
    for labels in (tmp_path / "predicted", tmp_path / "predicted" / "labels"):
        pairs = find_pairs(images, labels)
        assert [p.name for p in pairs] == ["a", "a_png", "b.c", "sub/a"]
        assert all(p.labels is not None for p in pairs)


def test_the_authors_names_are_found(tmp_path: Path) -> None:
    image, labels = scene(0)
    write_png(tmp_path / "images" / "im_0_p0.png", image)
    write_png(tmp_path / "labels" / "im_0_p0_labelTrainIds.png", labels)
    (pair,) = find_pairs(tmp_path / "images", tmp_path / "labels")
    assert np.array_equal(load_pair(pair).labels, labels)


def test_confidences(tree: Path) -> None:
    for i in range(7):
        write_png(tree / "sure" / f"{i:03d}.png", np.full((64, 64), 51 * (i % 6), np.uint8))
    (tree / "sure" / "004.png").unlink()
    pairs = find_pairs(tree / "images", tree / "labels", tree / "sure")
    confidence = load_pair(pairs[2]).confidence
    assert confidence is not None
    assert confidence.dtype == np.float32
    assert confidence[0, 0] == pytest.approx(0.4)
    result = go(tree, confidences=tree / "sure")
    assert [Path(f["path"]).name for f in result["failed"]] == ["004.png"]
    write_png(tree / "sure" / "004.png", np.full((60, 64), 51, np.uint8))
    assert "64 x 60" in go(tree, confidences=tree / "sure")["failed"][0]["fault"]


def test_two_runs_at_once_are_refused(tree: Path) -> None:
    slow = threading.Thread(target=go, args=(tree, ColourSam(0.1)), kwargs={"batch": 1})
    slow.start()
    try:
        wait_until((tree / "out" / "labels" / "000.png").exists)
        with pytest.raises(CloudsError, match="another process is writing"):
            go(tree)
    finally:
        slow.join(60)
    assert go(tree)["refined"] == 0


def test_a_full_disk_leaves_what_is_done(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import clouds_deploy.refinement.refine as pipeline

    def full(path: Path, pixels: np.ndarray) -> None:
        if path.name >= "004.png":
            from clouds_deploy.artifacts import storage_error

            raise storage_error(path, OSError(errno.ENOSPC, "full"))
        write_png(path, pixels)

    monkeypatch.setattr(pipeline, "write_png", full)
    with pytest.raises(CloudsError, match="no space left"):
        go(tree, batch=1, overlays=0)
    assert not (tree / "out" / "manifest.json").exists()
    monkeypatch.undo()
    assert 3 <= go(tree)["refined"] <= 7
    assert len(maps(tree / "out")) == 7


def test_a_cut_off_line_of_the_ledger_is_done_again(tree: Path) -> None:
    go(tree)
    ledger = tree / "out" / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:-1]) + lines[-1][:-20])
    assert go(tree)["refined"] == 1
    names = [json.loads(line)["name"] for line in ledger.read_text().splitlines()]
    assert sorted(names) == [f"{i:03d}" for i in range(7)]
    ledger.write_bytes(b"nonsense\n" + ledger.read_bytes())
    with pytest.raises(CloudsError, match="line 1"):
        go(tree)


def test_a_folder_begun_by_version_0_1_goes_on(tree: Path) -> None:
    wanted = go(tree, overlays=0)
    manifest, ledger = tree / "out" / "manifest.json", tree / "out" / "ledger.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()][:3]
    for line in lines:
        (entry,) = line.pop("outputs").values()
        line["output"] = entry["sha256"]
    ledger.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    manifest.unlink()
    result = go(tree, overlays=0)
    assert result["refined"] == 4
    assert result["per_class"] == wanted["per_class"]
    assert len(read_manifest(tree / "out", "refinement")["files"]) == 7 + 2


def test_changes_add_up() -> None:
    before = np.array([[0, 0, 0, 13], [13, 255, 255, 2]], np.uint8)
    after = np.array([[0, 0, 13, 255], [13, 255, 13, 2]], np.uint8)
    counts = count_changes(before, after)
    assert counts.tolist() == [
        [0, 0, 2],
        [0, 13, 1],
        [2, 2, 1],
        [13, 13, 1],
        [13, 19, 1],
        [19, 13, 1],
        [19, 19, 1],
    ]
    summary = summarize_changes(add_changes([counts, counts]))
    assert (summary["agreement"], summary["changed"], summary["unlabelled"]) == (4 / 6, 1 / 6, 1 / 6)
    assert summary["per_class"]["road"] == {
        "before": 3 / 8,
        "after": 2 / 8,
        "agreement": 2 / 3,
        "changed": 1 / 3,
        "unlabelled": 0.0,
    }
    assert summary["per_class"]["bus"]["agreement"] is None
