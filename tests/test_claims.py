"""An output path is claimed before the work begins, and nothing that others made is replaced or removed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clouds_deploy.artifacts import (
    CACHE_VARIABLE,
    atomic_directory,
    atomic_path,
    check_new,
    claims,
    write_manifest,
)
from clouds_deploy.artifacts.claims import claimed, remove_dead, temporary_path
from clouds_deploy.bundles.packed import pack, packing, unpacked
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.errors import CloudsError
from tests.deadly import kill, wait_until

new_file = partial(atomic_path, replace=False)
MAKERS: dict[str, Callable[[Path], AbstractContextManager[Path]]] = {
    "directory": atomic_directory,
    "file": new_file,
    "bundle": packing,
    "packed": lambda path: packing(path.with_suffix(".clouds")),
}
HOLDER = """
import sys, time
from pathlib import Path
from clouds_deploy.artifacts import atomic_directory
with atomic_directory(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make(path: Path) -> None:
    if path.is_dir():
        (path / "result").write_text("new")
        write_manifest(path, "bundle")
    else:
        path.write_text("new")


def holder(path: Path) -> subprocess.Popen[Any]:
    """Another process that makes a directory and does not come to an end."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_what_appears_meanwhile_is_left_alone(kind: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / ("out.clouds" if kind == "packed" else "out")
    with pytest.raises(CloudsError, match="something appeared") as caught, MAKERS[kind](path) as made:
        make(made)
        if what == "folder":
            path.mkdir()
            (path / "notes").write_text("mine")
        elif what == "file":
            path.write_text("mine")
        else:
            path.symlink_to("nowhere")
    kept = path.with_name(f"{path.name}-2")
    assert str(kept) in caught.value.hint
    assert kept.exists()
    assert names(tmp_path) == [path.name, kept.name]
    if what == "folder":
        assert (path / "notes").read_text() == "mine"
    elif what == "file":
        assert path.read_text() == "mine"
    else:
        assert os.readlink(path) == "nowhere"


@pytest.mark.parametrize("kind", MAKERS)
def test_two_at_once_in_one_process(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    with MAKERS[kind](path) as made:
        with (
            pytest.raises(CloudsError, match=rf"is being made by process {os.getpid()} on"),
            MAKERS[kind](path),
        ):
            pass
        make(made)
    with pytest.raises(CloudsError, match="exists already"), MAKERS[kind](path):
        pass
    assert len(names(tmp_path)) == 1


def test_another_process_is_named_and_a_dead_one_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "out"
    process = holder(path)
    try:
        for _ in range(2):
            with (
                pytest.raises(CloudsError, match=rf"process {process.pid} on .* since 20"),
                atomic_directory(path),
            ):
                pass
        foreign = tmp_path / ".other.tmp-0123abcd"  # of nobody that is known
        foreign.write_text("mine")
        elsewhere = tmp_path / f".x.tmp-{process.pid}-1-00000000-00000000"  # of another machine
        elsewhere.mkdir()
        assert len(names(tmp_path)) == 4
    finally:
        kill(process)
    assert len(names(tmp_path)) == 4  # it could not clean
    with atomic_directory(path) as made:
        (made / "result").write_text("new")
    assert names(tmp_path) == sorted([foreign.name, elsewhere.name, "out"])
    assert names(path) == ["result"]


def test_a_claim_without_locks_is_judged_by_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "no locks")

    process = holder(tmp_path / "out")
    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(CloudsError, match=rf"process {process.pid}"), claimed(tmp_path / "out"):
        pass
    kill(process)
    claim = tmp_path / ".out.claim"
    found = json.loads(claim.read_text())
    with claimed(tmp_path / "out"):
        assert json.loads(claim.read_text())["pid"] == os.getpid()
    claim.write_text(json.dumps({**found, "id": "another", "host": "far"}))
    with pytest.raises(CloudsError, match=r"on far since") as caught, claimed(tmp_path / "out"):
        pass
    assert f"delete {claim}" in caught.value.hint


def test_children_of_a_dead_process_hold_no_claim(tmp_path: Path) -> None:
    forking = HOLDER.replace("import sys, time", "import os, sys, time").replace(
        "    time.sleep",
        "    child = os.fork()\n    if child:\n        print(child, flush=True)\n    time.sleep",
    )
    process = subprocess.Popen([sys.executable, "-c", forking, tmp_path / "out"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    child = int(process.stdout.readline())
    kill(process)
    try:
        with atomic_directory(tmp_path / "out") as made:
            (made / "result").write_text("new")
    finally:
        os.kill(child, signal.SIGKILL)
    assert names(tmp_path) == ["out"]


def test_a_process_of_the_same_number_is_another_one(tmp_path: Path) -> None:
    mine = tmp_path / f".a.tmp-{os.getpid()}-{claims._own_start(os.getpid())}-{claims._host()}-00000000"
    other = tmp_path / f".a.tmp-{os.getpid()}-1-{claims._host()}-00000000"
    for path in (mine, other):
        path.write_text("half")
    remove_dead(tmp_path)
    assert names(tmp_path) == [mine.name]


@pytest.mark.parametrize("kind", MAKERS)
def test_an_error_leaves_nothing_and_comes_through(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    with pytest.raises(SystemExit), MAKERS[kind](path) as made:
        make(made)
        raise SystemExit(143)
    assert names(tmp_path) == []

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(CloudsError, match="no space left"), MAKERS[kind](path) as made:
        monkeypatch.setattr(os, "unlink", read_only)
        monkeypatch.setattr(Path, "unlink", read_only)
        raise OSError(errno.ENOSPC, "No space left on device")


def test_places_are_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    for name, told in (
        ("file", "exists already"),
        ("file/p", "file is a file, not a folder"),
        ("file/p/q", "file is a file, not a folder"),
        ("n" * 256, "File name too long"),
        ("n" * 256 + "/p", "File name too long"),
    ):
        for kind, maker in MAKERS.items():
            if kind == "packed" and "/" not in name:
                continue
            with pytest.raises(CloudsError, match=told), maker(tmp_path / name):
                pytest.fail("the work began")
        with pytest.raises(CloudsError, match=told):
            check_new(tmp_path / name)
    real = os.open

    def read_only(path: Any, flags: int, *more: Any, **others: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", read_only)
    for maker in MAKERS.values():
        with pytest.raises(CloudsError, match="Read-only file system"), maker(tmp_path / "out"):
            pytest.fail("the work began")


@pytest.mark.parametrize("length", [180, 241, 250, 255])
def test_long_names_are_names(length: int, tmp_path: Path) -> None:
    for kind, maker in MAKERS.items():
        path = tmp_path / kind / ("ü" * (length // 2) + "n" * (length % 2))
        if kind == "packed":
            path = path.with_name("n" * (length - 7) + ".clouds")
        with maker(path) as made:
            make(made)
        assert names(path.parent) == [path.name]
    assert len({temporary_path(tmp_path / ("n" * 250 + end)).name[:200] for end in "ab"}) == 2


def test_links_and_folders_that_are_there_are_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "lost+found").mkdir()
    (tmp_path / "link").symlink_to("big")
    (tmp_path / "dangling").symlink_to("new")
    (tmp_path / "here").mkdir(mode=0o750)
    monkeypatch.chdir(tmp_path / "here")
    before = (tmp_path / "here").stat()
    for path in (tmp_path / "link", tmp_path / "dangling", Path(".")):
        with atomic_directory(path) as made:
            make(made)
    assert names(tmp_path) == ["big", "dangling", "here", "link", "new"]
    assert names(tmp_path / "big") == ["lost+found", "manifest.json", "result"]
    assert os.readlink(tmp_path / "link") == "big"
    assert names(tmp_path / "new") == names(tmp_path / "here") == ["manifest.json", "result"]
    after = (tmp_path / "here").stat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    (tmp_path / "file").write_text("old")
    (tmp_path / "file-link").symlink_to("file")
    with atomic_path(tmp_path / "file-link") as made:
        made.write_text("new")
    assert (tmp_path / "file-link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_a_filled_folder_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(CloudsError, match="something appeared") as caught,
        atomic_directory(tmp_path / "out") as made,
    ):
        make(made)
        (tmp_path / "out" / "result").write_text("mine")
    assert (tmp_path / "out" / "result").read_text() == "mine"
    assert (tmp_path / "out" / "out" / "result").read_text() == "new"
    assert str(tmp_path / "out" / "out") in caught.value.hint
    with pytest.raises(CloudsError, match="exists already"), atomic_directory(tmp_path / "out"):
        pass


def _open(file: Path, barrier: Any, told: Any) -> None:
    barrier.wait()
    try:
        told.put((unpacked(file) / "result").read_text())
    except Exception as error:
        told.put(repr(error))


def test_several_processes_unpack_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    make(folder)
    for number in range(40):
        (folder / f"{number}").write_bytes(bytes(100))
    write_manifest(folder, "bundle")
    pack(folder, tmp_path / "a.clouds")
    fork = multiprocessing.get_context("fork")
    for turn in range(5):
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / f"cache{turn}"))
        barrier, told = fork.Barrier(4), fork.Queue()
        workers = [fork.Process(target=_open, args=(tmp_path / "a.clouds", barrier, told)) for _ in range(4)]
        for worker in workers:
            worker.start()
        assert [told.get(timeout=20) for _ in workers] == ["new"] * 4
        for worker in workers:
            worker.join(20)
        entry = unpacked(tmp_path / "a.clouds")
        assert names(entry.parent) == [entry.name]
    (entry / "manifest.json").unlink()  # no whole entry any more
    assert (unpacked(tmp_path / "a.clouds") / "manifest.json").is_file()
    assert names(entry.parent) == [entry.name]


def test_sigterm_leaves_nothing(small_run: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "clouds_deploy",
        "export",
        str(small_run),
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: any(".tmp-" in name for name in names(tmp_path)), 60)
    time.sleep(0.1)
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in told
    assert "terminated" in told
    assert names(tmp_path) == []


def test_a_run_has_one_writer(tmp_path: Path, small_recipe: Recipe) -> None:
    """Two `--resume` on one run: the second is refused, until the first has ended."""
    from clouds_deploy.artifacts.claims import claimed
    from clouds_deploy.training.run import RunFolder

    run = tmp_path / "run"
    run.mkdir()
    folder = RunFolder(run, small_recipe, "run", keep=1)
    with claimed(run), pytest.raises(CloudsError, match="process"), folder.claimed():
        pass
    with folder.claimed():
        pass


def test_a_killed_process_leaves_its_scratch_folder_to_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "clouds-mine").mkdir()
    code = "import os, signal, sys\nfrom clouds_deploy.artifacts.claims import Scratch\n"
    code += "folder = Scratch()\n(folder.path / 'a').write_text('a')\nos.kill(os.getpid(), signal.SIGKILL)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    claims._clear.cache_clear()
    with claims.Scratch() as folder:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted((folder.name, "clouds-mine"))
    assert [path.name for path in tmp_path.iterdir()] == ["clouds-mine"]
    claims._clear.cache_clear()
