"""A bundle as one file: the same bundle, whatever was done to the file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from clouds_deploy.artifacts import CACHE_VARIABLE, read_manifest, write_manifest
from clouds_deploy.bundles.packed import pack, packing, unpacked
from clouds_deploy.errors import CloudsError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(folder: Path) -> Path:
    (folder / "source").mkdir(parents=True)
    (folder / "segmenter.onnx").write_bytes(bytes(range(256)) * 64)
    (folder / "source" / "recipe.yaml").write_text("name: small\n")
    write_manifest(folder, "bundle")
    return folder


def test_what_is_packed_comes_back_and_is_kept(tmp_path: Path, cache: Path) -> None:
    folder, file = fill(tmp_path / "a"), tmp_path / "a.clouds"
    pack(folder, file)
    first = file.read_bytes()
    pack(folder, file)
    assert file.read_bytes() == first  # no clock in it
    opened = unpacked(file)
    assert opened.parent == cache / "bundles"
    assert read_manifest(opened, "bundle") == read_manifest(folder, "bundle")
    assert (opened / "segmenter.onnx").read_bytes() == (folder / "segmenter.onnx").read_bytes()
    before = (opened / "segmenter.onnx").stat().st_mtime_ns
    assert unpacked(file) == opened
    assert (opened / "segmenter.onnx").stat().st_mtime_ns == before
    assert unpacked(folder) == folder
    assert unpacked(Path("sam_tiny")) == Path("sam_tiny")


def test_one_flipped_byte_is_refused(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "a.clouds"
    pack(fill(tmp_path / "a"), file)
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    with pytest.raises(CloudsError, match="was changed"):
        unpacked(file)
    assert not any((cache / "bundles").iterdir())


def test_a_file_that_names_places_outside_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.clouds"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../evil", "x")
    with pytest.raises(CloudsError, match="outside of it"):
        unpacked(file)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_no_bundle(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "a.clouds"
    if content is None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("readme", "x")
    else:
        file.write_bytes(content)
    with pytest.raises(CloudsError, match="is no bundle"):
        unpacked(file)
    with pytest.raises(CloudsError, match="there is no file"):
        unpacked(tmp_path / "b.clouds")


def test_an_export_leaves_the_file_alone_or_nothing(tmp_path: Path) -> None:
    with packing(tmp_path / "a.clouds") as place:
        fill(place)
    assert [path.name for path in tmp_path.iterdir()] == ["a.clouds"]
    with pytest.raises(CloudsError, match="exists already"), packing(tmp_path / "a.clouds"):
        pass
    with packing(tmp_path / "b") as place:
        fill(place)
    assert (tmp_path / "b" / "manifest.json").is_file()
    with pytest.raises(CloudsError, match="a gate"), packing(tmp_path / "c.clouds") as place:
        raise CloudsError("a gate failed", "mend it")
    assert not (tmp_path / "c.clouds").exists()
