"""`predict` from and into shards and addresses: the files of the folder route, byte for byte."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from clouds_deploy.artifacts import read_manifest, sha256
from clouds_deploy.cli.app import app
from clouds_deploy.config.predict import PredictOptions
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference import predict as verb
from clouds_deploy.inference.predict import PredictWork, run_predict
from clouds_deploy.jobs.run import run_here
from clouds_deploy.jobs.storage import Place
from clouds_deploy.streets import render
from tests.deadly import kill, wait_until

ROOT = Path(__file__).parents[2]


class Sums:
    """Labels by the colours, and counts what it labels."""

    backend, device = "sums", "cpu"

    def __init__(self) -> None:
        self.count = 0

    def predict(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.count += 1
        return (image.sum(-1) % 19).astype(np.uint8)

    def predict_with_trust(self, image: Any) -> tuple[Any, Any]:
        return self.predict(image), image[..., 0]

    def describe(self) -> dict[str, object]:
        return {"kind": "sums"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "images"
    for i in range(5):
        path = folder / ("deep" if i == 3 else ".") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render("photo", 1, i, 48, 96).image).save(path)
    return folder


@pytest.fixture(scope="module")
def shards(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures in two shards, packed as anybody does."""
    folder = tmp_path_factory.mktemp("shards")
    names = sorted(p.relative_to(pictures).as_posix() for p in pictures.rglob("*.png"))
    for number, part in enumerate((names[:3], names[3:])):
        with tarfile.open(folder / f"part-{number}.tar", "w") as tar:
            for name in part:
                tar.add(pictures / name, name)
    return folder


@pytest.fixture(scope="module")
def reference(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("reference") / "out"
    run_predict(work(), [pictures], out)
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*.png")}


def work(**more: Any) -> PredictWork:
    return PredictWork(Path("none"), PredictOptions(confidences=True, **more), Sums())


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]


def as_folder(shards: dict[str, bytes]) -> dict[str, bytes]:
    """Give a shard's members the names that the files have in a folder."""
    folders = {"labels.png": "labels", "overlay.png": "overlays", "confidence.png": "confidences"}
    found = {}
    for name, data in shards.items():
        key, kind = name.split(".", 1)
        found[f"{folders[kind]}/{key}.png"] = data
    return found


def upload(folder: Path, address: str) -> None:
    place = Place(address)
    for path in folder.rglob("*"):
        if path.is_file():
            place.put(path, path.relative_to(folder).as_posix())


def download(address: str, folder: Path) -> Path:
    place = Place(address)
    for name in place.files():
        place.fetch(name, folder / name)
    return folder


def test_shards_give_the_bytes_of_the_folder(
    shards: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run_predict(work(), [shards], out)
    assert (result["images"], result["failed"]) == (5, [])
    assert sorted(p.name for p in out.glob("*.tar")) == ["part-0.tar", "part-1.tar"]
    found = as_folder({**members(out / "part-0.tar"), **members(out / "part-1.tar")})
    assert found == reference
    manifest = read_manifest(out, "prediction")
    assert manifest["images"] == 5
    assert manifest["inputs"] == {str(p): sha256(p) for p in sorted(shards.glob("*.tar"))}
    assert list(members(out / "part-0.tar"))[:3] == [
        "000.confidence.png",
        "000.labels.png",
        "000.overlay.png",
    ]


def test_any_way_in_and_out(
    pictures: Path, shards: Path, reference: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "BLOCK", 2)
    root = f"memory://{tmp_path.name}"
    upload(shards, f"{root}/shards")
    upload(pictures, f"{root}/pictures")
    upload(pictures, f"file://{tmp_path}/copy")
    ways: list[tuple[list[str | Path], str, bool | None]] = [
        ([shards], f"{tmp_path}/folder", False),
        ([shards / "part-1.tar", shards / "part-0.tar"], f"{root}/a", None),
        ([f"{root}/shards"], f"{root}/b", None),
        ([f"{root}/shards/part-0.tar", f"{root}/shards/part-1.tar"], f"{tmp_path}/c", False),
        ([f"{root}/pictures"], f"{root}/d", None),
        ([pictures], f"{root}/e", None),
        ([pictures], f"{tmp_path}/f", True),
        ([f"file://{tmp_path}/copy"], f"file://{tmp_path}/g", None),
    ]
    for number, (paths, out, asked) in enumerate(ways):
        assert run_predict(work(), paths, out, shards=asked)["images"] == 5, number
        folder = download(out, tmp_path / f"got-{number}")
        read_manifest(folder, "prediction")
        tars = sorted(folder.glob("*.tar"))
        packed = {name: data for tar in tars for name, data in members(tar).items()}
        found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}
        assert bool(tars) != bool(found)
        assert (as_folder(packed) if tars else found) == reference, number
    assert sorted(p.name for p in (tmp_path / "f").glob("*.tar")) == [
        "000000.tar",
        "000001.tar",
        "000002.tar",
    ]


class Killed(Exception):
    pass


def killing(after: int) -> Any:
    """A runner that is ended after so many units."""

    def run(*given: Any) -> Iterator[Any]:
        for number, outcome in enumerate(run_here(*given), start=1):
            yield outcome
            if number == after:
                raise Killed

    return run


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_done_stays_done(shards: Path, tmp_path: Path, remote: bool) -> None:
    out = f"memory://{tmp_path.name}/out" if remote else str(tmp_path / "out")
    first, second = work(), work()
    with pytest.raises(Killed):
        run_predict(first, [shards], out, runner=killing(1))
    assert not Place(out).is_file("manifest.json")
    run_predict(second, [shards], out)
    assert (first.predictor.count, second.predictor.count) == (3, 2)  # type: ignore[attr-defined]
    run_predict(work(), [shards], tmp_path / "whole")
    got = download(out, tmp_path / "got")
    for name in ("part-0.tar", "part-1.tar", "records/part-1.json"):
        assert (got / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    third = work()
    Place(out).remove("part-1.tar")
    run_predict(third, [shards], out)
    assert third.predictor.count == 2  # type: ignore[attr-defined]
    with pytest.raises(CloudsError, match=r"other settings \(overlays was True"):
        run_predict(work(overlays=False), [shards], out)


CHILD = """
import sys, time
from pathlib import Path
from clouds_deploy.config.predict import PredictOptions
from clouds_deploy.inference.predict import PredictWork, run_predict
from tests.jobs.test_spread import Sums
class Slow(Sums):
    def predict(self, image):
        time.sleep(0.05)
        return super().predict(image)
run_predict(PredictWork(Path("none"), PredictOptions(confidences=True), Slow()), [sys.argv[1]], sys.argv[2])
"""


@pytest.mark.slow
def test_killed_at_any_moment(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(8):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for path in sorted(pictures.glob("*.png")):
                tar.add(path, path.name)
    run_predict(work(), [folder], tmp_path / "whole")
    out = tmp_path / "out"
    command = [sys.executable, "-c", CHILD, str(folder), str(out)]
    for due in (1, 4, 6):
        process = subprocess.Popen(command, cwd=ROOT)
        wait_until(lambda due=due: len(list(out.glob("*.tar"))) >= due, 60)
        kill(process)
        assert not (out / "manifest.json").exists()
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            assert sha256(out / path.relative_to(tmp_path / "whole")) == sha256(path), path
    assert len(read_manifest(out, "prediction")["inputs"]) == 8


def test_faults_name_the_shard(shards: Path, pictures: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    shutil.copytree(shards, given)
    good = (given / "part-1.tar").read_bytes()
    (given / "part-1.tar").write_bytes(good[:3000])
    cut = tmp_path / "cut.png"
    cut.write_bytes((pictures / "000.png").read_bytes()[:300])
    with tarfile.open(given / "part-0.tar", "a") as tar:
        tar.add(cut, "bad.png")
    result = run_predict(work(), [given], tmp_path / "out")
    assert result["images"] == 3
    paths = [entry["path"] for entry in result["failed"]]
    assert paths == [f"{given}/part-0.tar/bad.png", f"{given}/part-1.tar"]
    assert result["failed"][0]["fault"].startswith(f"{given}/part-0.tar/bad.png is a damaged image")
    assert "clouds-" not in json.dumps(result["failed"])
    assert len(read_manifest(tmp_path / "out", "prediction")["failed"]) == 2

    (given / "part-1.tar").write_bytes(good)
    later = run_predict(work(), [given], tmp_path / "out")
    assert (later["images"], len(later["failed"])) == (5, 1)
    shutil.copy(given / "part-0.tar", given / "part-1.tar")
    with pytest.raises(CloudsError, match=r"part-1\.tar changed"):
        run_predict(work(), [given], tmp_path / "out")


def test_nothing_that_can_be_done(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(CloudsError, match="is inside"):
        run_predict(work(), [pictures], pictures / "out", shards=True)
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    with pytest.raises(CloudsError, match="none of 1 units could be processed") as caught:
        run_predict(work(), [tmp_path / "bad.tar"], tmp_path / "out")
    assert caught.value.exit_code == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("")
    with pytest.raises(CloudsError, match="exists already"):
        run_predict(work(), [pictures], tmp_path / "mine")


def test_keys_that_come_twice(pictures: Path, tmp_path: Path) -> None:
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            tar.add(pictures / "000.png", "same.png")
    paths = [tmp_path / "0.tar", tmp_path / "1.tar"]
    with pytest.raises(CloudsError, match=r"confidences/same\.png was made by both `0` and `1`") as caught:
        run_predict(work(overlays=False), paths, tmp_path / "folder", shards=False)
    assert "--shards" in caught.value.hint
    assert run_predict(work(overlays=False), paths, tmp_path / "shards")["images"] == 2
    Image.open(pictures / "000.png").save(tmp_path / "a.b.png")
    with pytest.raises(CloudsError, match=r"`a\.b` cannot be in a shard"):
        run_predict(work(), [tmp_path / "a.b.png"], tmp_path / "dots", shards=True)


def test_the_verb(small_bundle: Path, pictures: Path, shards: Path, tmp_path: Path) -> None:
    """The command line, with a real bundle: the folder's bytes out of shards and out of memory://."""

    def invoke(paths: Sequence[str], out: str, *more: str) -> dict[str, Any]:
        words = ["predict", str(small_bundle), *paths, "--out", out, "--no-overlays", "--json", *more]
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        told: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
        return told

    root = f"memory://{tmp_path.name}-verb"
    upload(pictures, f"{root}/in")
    assert invoke([str(pictures)], str(tmp_path / "a"))["images"] == 5
    assert invoke([str(shards)], str(tmp_path / "b"), "--no-shards")["images"] == 5
    assert invoke([f"{root}/in"], f"{root}/out")["images"] == 5
    download(f"{root}/out", tmp_path / "c")
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a" / "labels").rglob("*.png"))
    assert len(names) == 5
    for name in names:
        data = (tmp_path / "a" / name).read_bytes()
        assert (tmp_path / "b" / name).read_bytes() == data
        assert (tmp_path / "c" / name).read_bytes() == data
    result = CliRunner().invoke(
        app, ["predict", str(small_bundle), str(shards), "--out", "x", "--runner", "rey"]
    )
    assert result.exit_code != 0
    assert "did you mean `ray`" in str(result.exception)
