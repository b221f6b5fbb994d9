from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clouds_deploy.artifacts import (
    atomic_directory,
    atomic_path,
    read_json,
    read_manifest,
    write_json,
    write_manifest,
    write_text,
)
from clouds_deploy.errors import CloudsError
from tests.deadly import kill, wait_until


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if ".tmp-" in path.name]


def sealed(path: Path) -> Path:
    with atomic_directory(path) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "data.bin").write_bytes(b"x" * 1000)
        write_manifest(temporary, "bundle", seed=1)
    return path


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert not leftovers(tmp_path)


def test_a_full_disk_is_told_and_nothing_stays(tmp_path: Path) -> None:
    with (
        pytest.raises(CloudsError, match="no space left") as caught,
        atomic_directory(tmp_path / "d") as temporary,
    ):
        (temporary / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(tmp_path / "d") in caught.value.message
    assert not (tmp_path / "d").exists()
    assert not leftovers(tmp_path)


def test_directory_may_not_be_replaced_unless_it_is_ours(tmp_path: Path) -> None:
    path = sealed(tmp_path / "bundle")
    with pytest.raises(CloudsError, match="exists already"), atomic_directory(path):
        pass
    with atomic_directory(path, replace=True) as temporary:
        (temporary / "new").write_text("new")
        write_manifest(temporary, "bundle")
    assert [p.name for p in sorted(path.iterdir())] == ["manifest.json", "new"]
    (path / "notes.txt").write_text("mine")
    with (
        pytest.raises(CloudsError, match=r"notes.txt is no file of what"),
        atomic_directory(path, replace=True),
    ):
        pass
    assert (path / "notes.txt").read_text() == "mine"
    foreign = tmp_path / "home"
    foreign.mkdir()
    (foreign / "precious").write_text("mine")
    with pytest.raises(CloudsError, match="exists already"), atomic_directory(foreign, replace=True):
        pass
    assert (foreign / "precious").read_text() == "mine"
    assert not leftovers(tmp_path)


def test_manifest_names_every_file(tmp_path: Path) -> None:
    manifest = read_manifest(sealed(tmp_path / "b"), "bundle")
    assert manifest["files"]["sub/data.bin"]["bytes"] == 1000
    assert manifest["seed"] == 1
    assert "torch" in manifest["environment"]["packages"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "kind", "format", "no manifest", "no json"])
def test_a_damaged_directory_is_refused(tmp_path: Path, damage: str) -> None:
    path = sealed(tmp_path / "b")
    data = path / "sub" / "data.bin"
    if damage == "flip":
        data.write_bytes(b"y" + data.read_bytes()[1:])
    elif damage == "truncate":
        data.write_bytes(b"x")
    elif damage == "remove":
        data.unlink()
    elif damage == "no manifest":
        (path / "manifest.json").unlink()
    elif damage == "no json":
        (path / "manifest.json").write_text("{")
    else:
        manifest = read_json(path / "manifest.json")
        manifest[damage] = 99
        (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CloudsError) as caught:
        read_manifest(path, "bundle")
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="there is no directory"):
        read_manifest(tmp_path / "nowhere", "run")


def test_killed_while_writing_leaves_old_or_new(tmp_path: Path) -> None:
    target = tmp_path / "d"
    code = (
        "import sys, itertools; from pathlib import Path\n"
        "from clouds_deploy.artifacts import atomic_directory, write_manifest\n"
        "for i in itertools.count():\n"
        "    with atomic_directory(Path(sys.argv[1]), replace=True) as t:\n"
        "        [(t / f'{k}').write_text(str(i)) for k in range(20)]\n"
        "        write_manifest(t, 'bundle')\n"
    )
    for delay in (0.4, 0.47, 0.53):
        process = subprocess.Popen([sys.executable, "-c", code, str(target)])
        wait_until(target.exists, 20)
        time.sleep(delay)
        kill(process)
        if target.exists():  # the one moment between the two renames is a moment without
            manifest = read_manifest(target, "bundle")
            assert len(manifest["files"]) == 20
            assert len({(target / str(k)).read_text() for k in range(20)}) == 1


def test_json_round_trip_and_faults(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ü": [1, 2]})
    assert read_json(tmp_path / "a.json") == {"ü": [1, 2]}
    with pytest.raises(CloudsError, match="is missing"):
        read_json(tmp_path / "b.json")
