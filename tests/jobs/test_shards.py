"""Shards and storage: safe, the same bytes for the same files, readable for webdataset, errors told."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from clouds_deploy.artifacts import sha256
from clouds_deploy.artifacts.names import fault
from clouds_deploy.errors import CloudsError
from clouds_deploy.jobs.results import Results, measured
from clouds_deploy.jobs.shards import is_image, pack, split_member, unpack
from clouds_deploy.jobs.storage import Place, is_url
from clouds_deploy.jobs.units import find_units


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return path


def test_members() -> None:
    assert split_member("a/b.c/000.labels.PNG") == ("a/b.c/000", "labels.png")
    assert [is_image(m) for m in ("x/0.jpg", "0.PNG", "0.labels.png", "0.json", ".hidden", "._0.jpg")] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_webdataset_reads_what_is_packed(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    files = {}
    for name in ("a.labels.png", "a.overlay.png", "deep/b.labels.png"):
        files[name] = tmp_path / name.replace("/", "_")
        files[name].write_bytes(name.encode())
    pack(tmp_path / "one.tar", files)
    pack(tmp_path / "two.tar", files)
    assert sha256(tmp_path / "one.tar") == sha256(tmp_path / "two.tar")
    samples = list(webdataset.WebDataset(str(tmp_path / "one.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["a", "deep/b"]
    assert samples[0]["labels.png"] == b"a.labels.png"
    assert samples[0]["overlay.png"] == b"a.overlay.png"
    written = unpack(tmp_path / "one.tar", "one.tar", tmp_path / "out", lambda m: m)
    assert written == list(files)
    assert (tmp_path / "out" / "deep" / "b.labels.png").read_bytes() == b"deep/b.labels.png"


def test_webdatasets_own_shards_are_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        writer.write({"__key__": "a/0", "jpg": b"picture", "json": {"x": 1}})
    assert unpack(tmp_path / "x.tar", "x", tmp_path / "out", lambda m: m if is_image(m) else None) == [
        "a/0.jpg"
    ]
    assert (tmp_path / "out" / "a" / "0.jpg").read_bytes() == b"picture"


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png"])
def test_nothing_is_written_outside(name: str, tmp_path: Path) -> None:
    bad = shard(tmp_path / "bad.tar", {name: b"x"})
    with pytest.raises(CloudsError, match="leads out of it"):
        unpack(bad, "s3://x/bad.tar", tmp_path / "deep" / "out", lambda m: m)
    assert not list(tmp_path.rglob("evil.png"))


def test_damaged_shards(tmp_path: Path) -> None:
    whole = shard(tmp_path / "whole.tar", {"a.png": b"x" * 5000, "b.png": b"y" * 5000})
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:7000])
    text = tmp_path / "text.tar"
    text.write_text("no tar at all, whatever it is called" * 30)
    for path in (cut, text):
        with pytest.raises(CloudsError, match=f"memory://{path.name} is a damaged shard"):
            unpack(path, f"memory://{path.name}", tmp_path / "out", lambda m: m)
    twice = shard(tmp_path / "twice.tar", {"a.png": b"x"})
    with tarfile.open(twice, "a") as tar:
        tar.add(whole, "a.png")
    with pytest.raises(CloudsError, match="twice"):
        unpack(twice, "twice.tar", tmp_path / "out", lambda m: m)


def test_places(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for place in (
        Place(f"memory://{tmp_path.name}/x"),
        Place(tmp_path / "here"),
        Place(f"file://{tmp_path}/f"),
    ):
        file = tmp_path / "given"
        file.write_bytes(b"one")
        place.put(file, "deep/a.bin")
        place.write_json("b.json", {"x": 1})
        place.write_json(".hidden.json", {})
        assert place.files() == ["b.json", "deep/a.bin"]
        assert place.read_json("b.json") == {"x": 1}
        assert (place.size("deep/a.bin"), place.size("none")) == (3, -1)
        before = place.identity("deep/a.bin")
        assert place.identity("deep/a.bin") == before
        file.write_bytes(b"other")
        place.put(file, "deep/a.bin")
        assert place.identity("deep/a.bin") != before
        place.fetch("deep/a.bin", tmp_path / "back" / "a")
        assert (tmp_path / "back" / "a").read_bytes() == b"other"
        place.remove("deep/a.bin")
        place.remove("deep/a.bin")
        assert not place.is_file("deep/a.bin")
        with pytest.raises(CloudsError, match=r"there is no .*deep/a.bin"):
            place.read_bytes("deep/a.bin")


def test_addresses_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="cannot be read"):
        Place("nonsense://bucket/x")
    with pytest.raises(CloudsError, match="no folder memory://nowhere"):
        find_units([f"memory://nowhere-{tmp_path.name}"], 4)
    with pytest.raises(CloudsError, match="no shard"):
        find_units([tmp_path / "none.tar"], 4)
    shard(tmp_path / "a" / "0.tar", {"x.txt": b""})
    shard(tmp_path / "b" / "0.tar", {"x.txt": b""})
    with pytest.raises(CloudsError, match="`0` first"):
        find_units([tmp_path / "a", tmp_path / "b" / "0.tar"], 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CloudsError, match="no shards and no images"):
        find_units([tmp_path / "empty"], 4)


def test_a_package_that_is_missing() -> None:
    pytest.importorskip("fsspec")
    try:
        import s3fs  # noqa: F401
    except ImportError:
        with pytest.raises(CloudsError) as caught:
            Place("s3://bucket/x")
        assert "clouds-deploy[cloud]" in caught.value.hint
    else:
        pytest.skip("s3fs is installed")


def test_one_place_in_another(tmp_path: Path) -> None:
    assert Place(tmp_path).holds(Place(f"file://{tmp_path}/out"))
    assert Place(tmp_path).holds(Place(tmp_path))
    assert not Place(tmp_path / "a").holds(Place(tmp_path / "ab"))
    assert not Place("memory://x").holds(Place(tmp_path))
    assert Place("memory://x").holds(Place("memory://x/y"))


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "disk" / "deep" / "a.png").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "b.png").touch()
    (tmp_path / "images" / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "images")  # a loop
    files = Place(tmp_path / "images").files()
    assert files == ["b.png", "link/deep/a.png"]
    (unit,) = find_units([tmp_path / "images"], 4)
    assert unit.files == ("b.png", "link/deep/a.png")


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_passed_over_is_told(
    tmp_path: Path, remote: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(f"memory://{tmp_path.name}" if remote else tmp_path / "in")
    (tmp_path / "empty").touch()
    for name in ("a.png", "b.HEIC", "deep/c.avif", ".hidden.heic", "d.txt", "e.mp4", "f.ts"):
        place.put(tmp_path / "empty", name)
    over: list[str] = []
    (unit,) = find_units([place.address], 4, over)
    assert unit.files == ("a.png",)
    assert over == [place.told(name) for name in ("b.HEIC", "deep/c.avif", "e.mp4")]
    packed = shard(tmp_path / "0.tar", {"a.png": b"", "b.HEIC": b"", "._b.HEIC": b"", "c.json": b""})
    (unit,) = find_units([packed], 4)
    assert [item.name for item in unit.stage(tmp_path / "out")] == ["a"]
    told = " ".join(capsys.readouterr().err.split())
    assert "passed over 1 files of formats that are not read (1 .heic): b.HEIC" in told


def test_shards_beside_images(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", {"x.txt": b""})
    (tmp_path / "a.png").touch()
    with pytest.raises(CloudsError, match="holds shards and images"):
        find_units([tmp_path], 4)


@pytest.mark.parametrize("kind", ["images", "shards"])
def test_keys_that_climb_out_of_their_folder(kind: str, tmp_path: Path) -> None:
    """A store's keys are any text: `..` in them leads nowhere, here and at the results."""
    import fsspec
    from fsspec.implementations.memory import MemoryFile

    fs = fsspec.filesystem("memory")
    fs.store.clear()
    data = io.BytesIO()
    Image.new("RGB", (4, 3)).save(data, "PNG")
    picture = data.getvalue()
    if kind == "shards":
        picture = shard(tmp_path / "one.tar", {"a.png": picture}).read_bytes()
    ending = "png" if kind == "images" else "tar"
    up = f"/in/{'../' * 30}{str(tmp_path)[1:]}/out.{ending}"
    names = [f"/in/ok.{ending}", f"/in/../../x.{ending}", f"/in/a\x1b[31m.{ending}", up]
    try:
        for name in names:
            fs.store[name] = MemoryFile(fs, name, picture)
        units = find_units(["memory://in"], 4)
        places = set()
        for number, unit in enumerate(units):
            assert not fault(unit.name)
            folder = tmp_path / "deep" / str(number)
            for item in unit.stage(folder):
                assert item.path.resolve().is_relative_to(folder.resolve())
                places.add((unit.name, item.name))
        assert len(places) == len(names)
        assert {path.name for path in tmp_path.iterdir()} - {"one.tar"} == {"deep"}
    finally:
        fs.store.clear()


@pytest.mark.parametrize("path", ["10:30.mp4", "a::b", "C:x", "a:/b"])
def test_colons_make_no_address(path: str) -> None:
    assert not is_url(path)


def test_a_result_that_was_cut_short_is_not_in_place(tmp_path: Path) -> None:
    results = Results(Place(tmp_path), None)
    (tmp_path / "a.png").write_bytes(b"whole picture")
    record = {"name": "a", "outputs": {"a.png": measured(tmp_path / "a.png")}}
    assert results.holds(record)
    for damage in (b"whole", b"whole pictura", b""):
        (tmp_path / "a.png").write_bytes(damage)
        assert not results.holds(record)
