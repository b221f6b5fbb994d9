"""The tutorial on shards: its commands run on a few images; those on Ray where Ray is installed."""

from __future__ import annotations

import json
import tarfile
from importlib.util import find_spec
from pathlib import Path

from tests.cli.conftest import run
from tests.documented import changed, commands, words


def test_shards(small_bundle: Path, sam_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "first").symlink_to(small_bundle)
    typed = [line for line in commands("tutorials/cluster.md") if line.startswith("clouds-deploy ")]
    ran = []
    for command in typed:
        given = changed(words(command), count="3", sam=str(sam_bundle))
        if "ray" in given and find_spec("ray") is None:
            continue
        done = run(*given, "--json", cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        ran.append((given, json.loads(done.stdout.strip().splitlines()[-1])))
    assert [given[0] for given, _ in ran[:3]] == ["generate", "predict", "refine"]
    (shard,) = (tmp_path / "refined").glob("*.tar")
    with tarfile.open(shard) as file:
        assert [name for name in file.getnames() if name.endswith(".labels.png")] == [
            f"{i:06d}.labels.png" for i in range(3)
        ]
    before = shard.read_bytes()
    again = run(*ran[2][0], cwd=tmp_path)  # as after an interruption
    assert again.returncode == 0
    assert shard.read_bytes() == before
