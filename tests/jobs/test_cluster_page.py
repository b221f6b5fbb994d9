"""The commands of docs/guides/cluster.md run; `memory://` is the bucket, and this process the cluster."""

from __future__ import annotations

import re
import shlex
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.cli.app import app
from clouds_deploy.jobs.storage import Place
from tests.data import trees
from tests.data.trees import picture, save, train_ids

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "cluster.md"


def test_the_commands_run(small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bucket = f"memory://{tmp_path.name}"
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "a").symlink_to(small_bundle)
    (tmp_path / "shards").mkdir()
    for number in range(2):
        image = save(tmp_path / "images" / f"{number}.png", picture(number, 64, 128))
        with tarfile.open(tmp_path / "shards" / f"{number}.tar", "w") as tar:
            tar.add(image, image.name)
            tar.add(save(tmp_path / "truth.png", train_ids(number, 64, 128)), f"{number}.labels.png")
        Place(f"{bucket}/images").put(image, image.name)
        for name in ("shards", "labelled_shards"):
            Place(f"{bucket}/{name}").put(tmp_path / "shards" / f"{number}.tar", f"{number}.tar")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "prompts.txt").write_text("a bus\n")
    trees.folder(tmp_path / "data")
    (block,) = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    lines = block.strip().splitlines()
    assert len(lines) >= 8
    outs = []
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words.pop(0) == "clouds-deploy"
        if "--runner" in words:  # Ray's workers do not see this process's memory; its tests are beside these
            at = words.index("--runner")
            assert words[at : at + 2] == ["--runner", "ray"]
            words[at + 1] = "local"
        stands = {"s3://bucket": bucket, "MODEL": "streets", "cityscapes:DATA": "folder@all:data"}
        for name, instead in stands.items():
            words = [word.replace(name, instead) for word in words]
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, f"{line}\n{done.output}"
        outs.append(words[words.index("--out") + 1])
    kinds = ["prediction"] * 3 + ["refinement", "prediction", "generated", "evaluation", "evaluation"]
    for number, (out, kind) in enumerate(zip(outs, kinds, strict=True)):
        place = Place(out)
        for name in place.files():
            place.fetch(name, tmp_path / "got" / str(number) / name)
        read_manifest(tmp_path / "got" / str(number), kind)
    tars = {out: sum(name.endswith(".tar") for name in Place(out).files()) for out in outs}
    assert list(tars.values()) == [2, 0, 1, 2, 2, 1, 0, 0]
