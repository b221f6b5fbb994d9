"""Names that users, stores and shards give files: every one stays in its folder, and costs no other file."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds_deploy.artifacts.names import escaped, fault, inside, unescaped
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.console import say, warn
from clouds_deploy.data.images import write_png
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.predict import PredictWork, run_predict
from clouds_deploy.jobs.shards import pack, unpack
from clouds_deploy.jobs.storage import Place, is_url
from clouds_deploy.jobs.units import find_units
from tests.test_faults import _Flat

ODD = ["a/../../x.png", "/x.png", "a//b.png", "./x.png", "..", "a\nb.png", "a\x1b[2Jb.png", "caf\udce9.png",
       "a\\b.png", "C:x.png", "con.png", "%41.png", "A.png", "%2e", "é.png", "n" * 300 + ".png", "%", "",
       "10:30.mp4", "a::b", "a\0b", "a" * 40 + "/" + "b/" * 50 + "c.png"]  # fmt: skip


@given(st.lists(st.text(st.characters(codec=None), max_size=40), min_size=2, max_size=6, unique=True))
def test_every_name_has_a_path_of_its_own(names: list[str]) -> None:
    paths = [escaped(name) for name in names]
    assert len(set(paths)) == len(names)
    assert not any(fault(path) for path in paths)


@pytest.mark.parametrize("name", ODD)
def test_odd_names(name: str, tmp_path: Path) -> None:
    path = escaped(name)
    assert inside(tmp_path, path, "x") == tmp_path / path
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()
    if len(name) < 250 and name.count("/") < 30:
        assert unescaped(path) == name
    if name in ("10:30.mp4", "é.png", "A.png"):
        assert path == name


def test_links_that_lead_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    (tmp_path / "in" / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "in" / "pipe")
    for name in ("link", "link/x", "pipe", "loop"):
        with pytest.raises(CloudsError):
            inside(tmp_path / "in", name, "x")


def png() -> bytes:
    from PIL import Image

    made = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(made, "PNG")
    return made.getvalue()


def test_keys_of_a_store_stay_below_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "deep" / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "deep" / "tmp").mkdir(parents=True)
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    with fs.open("/imgs/ok.png", "wb") as file:
        file.write(png())
    for key in ("/imgs/../../../evil.png", "/imgs/a\nb.png", "/imgs/" + "n" * 300 + ".png"):
        fs.store[key] = type(fs.store["/imgs/ok.png"])(fs, key, png())
    work = PredictWork(tmp_path, predictor=_Flat())  # type: ignore[arg-type]
    result = run_predict(work, ["memory://imgs"], tmp_path / "deep" / "out")
    fs.store.clear()
    out = tmp_path / "deep" / "out"
    assert all(out in path.parents for path in tmp_path.rglob("evil.png"))
    assert result["images"] == 4
    written = {path.name for path in (tmp_path / "deep" / "out" / "labels").rglob("*.png")}
    assert {"ok.png", "a%0Ab.png"} <= written
    assert len(written) == 4


def test_a_shard_beside_its_folder(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    for key in ("/sh/ok.tar", "/sh/../../evil.tar"):
        with fs.open("/sh/ok.tar", "wb") as file:
            file.write(b"x")
        fs.store[key] = type(fs.store["/sh/ok.tar"])(fs, key, b"x")
    names = [unit.name for unit in find_units(["memory://sh"], 8)]
    fs.store.clear()
    assert names == ["%2E%2E/%2E%2E/evil", "ok"] or sorted(names) == sorted(["%2E%2E/%2E%2E/evil", "ok"])


def test_one_odd_name_does_not_cost_the_run(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    write_png(tmp_path / "x.png", np.zeros((8, 8, 3), np.uint8))
    for name in (b"a.png", b"caf\xe9.png", b"a\x1b[31m.png", b"a\nb.png", b"n" * 240 + b".png"):
        (images / os.fsdecode(name)).write_bytes((tmp_path / "x.png").read_bytes())
    for out, shards in ((tmp_path / "out", {}), (tmp_path / "shards", {"shards": True})):
        work = PredictWork(tmp_path, predictor=_Flat())  # type: ignore[arg-type]
        result = run_predict(work, [images], out, **shards)
        assert (result["images"], result["failed"]) == (5, [])
    names = {path.name for path in (tmp_path / "out" / "labels").iterdir()}
    assert names == {"a.png", "caf%E9.png", "a%1B[31m.png", "a%0Ab.png", "n" * 240 + ".png"}


def test_members_of_a_shard(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("caf\udce9.png", "a\nb.png", "n" * 300 + ".png", "k.png"):
            about = tarfile.TarInfo(name)
            about.size = 1
            tar.addfile(about, io.BytesIO(b"x"))
    found = unpack(tmp_path / "x.tar", "x", tmp_path / "out", lambda m: m)
    assert found[:2] + found[3:] == ["caf%E9.png", "a%0Ab.png", "k.png"]
    assert all((tmp_path / "out" / name).read_bytes() == b"x" for name in found)
    (tmp_path / "y").write_bytes(b"y")
    pack(tmp_path / "y.tar", {"n" * 240 + ".png": tmp_path / "y", "a.png": tmp_path / "y"})
    with tarfile.open(tmp_path / "y.tar") as made:
        names = made.getnames()
    assert names == ["n" * 240 + ".png", "a.png"]


def test_files_that_look_like_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [is_url(text) for text in ("a::b", "10:30.mp4", "s3://x", "zip::s3://x", "x/s3://y")] == [
        False, False, True, True, False,
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a::b").mkdir()
    write_png(tmp_path / "a::b" / "x.png", np.zeros((8, 8, 3), np.uint8))
    place = Place("a::b")
    assert place.local
    assert place.files() == ["x.png"]
    work = PredictWork(tmp_path, predictor=_Flat())  # type: ignore[arg-type]
    assert run_predict(work, ["a::b"], "o::p")["images"] == 1
    assert (tmp_path / "o::p" / "labels" / "x.png").is_file()


def test_a_video_named_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    import av

    from clouds_deploy.data.video import frame_count

    monkeypatch.chdir(tmp_path)
    with av.open("file:10:30.mp4", "w", format="mp4") as made:
        stream: Any = made.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            made.mux(stream.encode(frame))
        made.mux(stream.encode())
    assert frame_count(Path("10:30.mp4")) == 3


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "..", "", "a\nb", "con", "n" * 300])
def test_a_recipe_is_named_like_a_folder(name: str) -> None:
    with pytest.raises(ValueError, match="name of a folder is wanted"):
        Recipe(name=name)


def test_escape_codes_are_not_shown_raw(capsys: pytest.CaptureFixture[str]) -> None:
    error = CloudsError("there is no file a\x1b]0;evil\x07\u202e", "see \x9b31m")
    say("a\x1b[2J")
    warn("b\x1b[2J caf\udce9")
    told = str(error) + capsys.readouterr().err
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\udce9"} & set(told)
    assert "\\x1b" in told
