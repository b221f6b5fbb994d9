"""The tutorial on a first model, as the page types it: shortened here, whole with the slow tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import SMALL, run
from tests.documented import changed, commands, words

PAGE = "tutorials/first-model.md"


def test_a_first_model(half_bundle: Path, tmp_path: Path) -> None:
    """Two steps of training; the bundle is one that was exported already, by the same command."""
    said = {}
    for command in commands(PAGE):
        given = changed(words(command), images="2", count="2")
        if given[0] == "train":
            given += SMALL
        if given[0] == "export":
            assert given == ["export", "runs/first", "--out", "bundles/first", "--fp16"]
            (tmp_path / "bundles").mkdir()
            (tmp_path / "bundles" / "first").symlink_to(half_bundle)
            continue
        done = run(*given, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        said[given[0]] = done.stdout
    assert set(said) == {"train", "evaluate", "generate", "predict", "selftest"}
    assert len(list((tmp_path / "predicted" / "labels").glob("*.png"))) == 2
    assert len(list((tmp_path / "predicted" / "overlays").iterdir())) == 2


@pytest.mark.slow
def test_a_first_model_whole(tmp_path: Path) -> None:
    """Nothing is shortened; the domain gap that the page speaks of shows."""
    found = []
    for command in commands(PAGE):
        given = words(command)
        done = run(*given, "--json", cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        if given[0] == "evaluate":
            import json

            found.append(json.loads(done.stdout.strip().splitlines()[-1])["miou"])
    game, photo = found
    assert game > photo + 0.05
    assert len(list((tmp_path / "predicted" / "labels").glob("*.png"))) == 4
