"""The quickstart, shrunk until it says nothing about quality: every stage, the report, and a second call."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from clouds_deploy.artifacts import write_manifest
from clouds_deploy.errors import CloudsError
from clouds_deploy.studies.quickstart import _cleared, quickstart
from clouds_deploy.studies.quickstart_report import _learnt
from tests.cli.conftest import SMALL


@pytest.mark.slow  # `make quickstart` is the other half of what every change is tried with
def test_from_nothing_to_a_report_and_again(tmp_path: Path) -> None:
    out = tmp_path / "quickstart"
    first = quickstart(out=out, overrides=SMALL)
    assert first["gap"] == pytest.approx(first["game_miou"] - first["photo_miou"])
    assert all(gate["passed"] for gate in first["gates"])
    assert {entry["backend"] for entry in first["bench"]} == {"torch", "onnxruntime", "openvino"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', page), "the report needs another file"
    assert page.count("data:image") >= 8
    assert set(first["pseudo_labels"]) == {"before", "after", "unlabelled"}
    assert len(list((out / "pseudo" / "refined" / "labels").glob("*.png"))) == 24
    for heading in (
        "What it sees",
        "The gap",
        "Pseudo-labels, refined",
        "Training",
        "Does the exported bundle equal the model?",
    ):
        assert heading in page
    assert f"{first['photo_miou_before']:.1f} before self-training" in page
    assert first["joint_steps"] == 2
    assert "tiny_joint" in (out / "bundle" / "source" / "recipe.yaml").read_text(encoding="utf-8")
    weights = [(out / run / "trained.safetensors").stat().st_mtime_ns for run in ("run", "joint")]

    again = quickstart(out=out, overrides=SMALL)
    kept = [(out / run / "trained.safetensors").stat().st_mtime_ns for run in ("run", "joint")]
    assert kept == weights, "trained twice"
    assert again["game_miou"] == first["game_miou"]
    for stage in ("train", "self-train"):
        assert again["seconds"][stage] == first["seconds"][stage]
    assert json.loads((out / "quickstart.json").read_text())["photo_miou"] == first["photo_miou"]

    with pytest.raises(CloudsError, match="was started with"):
        quickstart(out=out, overrides=(*SMALL, "seed=5"))


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(CloudsError, match="is not a quickstart"):
        quickstart(out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


def test_what_a_user_put_into_a_stage_is_kept(tmp_path: Path) -> None:
    made = tmp_path / "bundle"
    made.mkdir()
    (made / "a.txt").write_text("made")
    write_manifest(made, "bundle")
    (made / "notes.txt").write_text("mine")
    with pytest.raises(CloudsError, match=r"notes\.txt is no file of what is to be replaced"):
        _cleared(made)
    (made / "notes.txt").unlink()
    (made / "a.txt").write_text("edit")
    with pytest.raises(CloudsError, match=r"a\.txt was changed since it was made"):
        _cleared(made)
    assert (made / "a.txt").read_text() == "edit"
    (made / "a.txt").write_text("made")
    assert not _cleared(made).exists()
    made.mkdir()
    (made / "b.txt").write_text("mine")
    assert (_cleared(made) / "b.txt").read_text() == "mine"  # for the stage to refuse


def test_a_stage_whose_time_was_lost_is_said_to_be(tmp_path: Path) -> None:
    """The kill came between the end of the training and the note of how long it took."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 4, "images_per_second": 7.9}\n')
    told = _learnt(tmp_path, {"self-train": 90.0})
    assert "took a time that was not recorded, about 8 images/s, self-training after it 1.5 minutes" in told
